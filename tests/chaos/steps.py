"""What can happen to a ledger, as choices: hypothesis draws from them and shrinks, a seed rolls dice."""

import random
from typing import Any

from tests.builders import (
    a_change,
    a_clearing,
    a_limit_set,
    a_member_change,
    a_record,
    a_reserve,
    a_settle,
    a_status,
    a_subject,
    a_subscription_change,
    an_opening,
)
from tests.chaos.model_costs import BOOKS
from tests.chaos.prices import price_of
from tests.chaos.world import GROUPS, LATE, PLANS, SEATS_MAX, TENANTS, USERS, World

from subscription_mcp.domain.catalog import UNLIMITED
from subscription_mcp.ledger.commands import (
    Actor,
    Arrive,
    CloseSession,
    Command,
    EndGrant,
    GrantAllowance,
    RenewSession,
    Subject,
)

Choices = dict[str, tuple[Any, ...]]

EVENTS = (
    *(("message", {}),) * 4,
    ("llm_call", {"tokens": 7}),
    ("llm_call", {"provider": "google"}),
    ("llm_call", {"provider": "gemini", "model": "Flash", "input_tokens": 77, "output_tokens": 3_001}),
    ("llm_call", {"model": "flash", "input_tokens": 50}),
    ("llm_call", {"provider": "openai", "model": "gpt", "input_tokens": 50, "output_tokens": 31}),
    ("llm_call", {"provider": "openai", "model": "gpt", "input_tokens": 51, "output_tokens": 13}),
    ("llm_call", {"model": "gpt", "input_tokens": 99, "output_tokens": 13}),
    ("llm_call", {"model": "image", "input_tokens": 1}),
    ("llm_call", {"provider": "gemini", "model": "flash"}),
    ("tool_call", {"tool": "search"}),
    ("tool_call", {}),
    ("tool_call", {}),
    *(("storage", {}),) * 2,
)
OTHER_CALLS = (
    {"tokens": 11, "provider": "gemini"},
    {"tokens": 3, "input_tokens": 60},
    {"model": "gpt", "input_tokens": 91, "output_tokens": 1_000},
)
"""What a call really was that was reserved as another, or as one of the same model."""
FALLING = (3, 8)
"""Quantities by which a level is lowered instead of raised."""
# Some more often than others: what follows one another must concern the same account to matter.
TENANT = (*TENANTS, *TENANTS[:1] * 4)
USER = (*USERS, *USERS[:1] * 3)
ANYBODY = (*USER, *GROUPS, *GROUPS[:1] * 2)
WHO: Choices = {"tenant": TENANT, "user": USER}
BUYER: Choices = {"tenant": TENANT, "who": (*USERS, *USERS[:1] * 6, *GROUPS[:1] * 2)}
BOUGHT = (
    *((plan, None) for plan in PLANS * 2),
    *(("team", seats) for seats in (1, 2, 2, 3, SEATS_MAX, SEATS_MAX + 1)),
    ("premium", 2),
)
"""A plan, and how many seats."""
KEYS = (None, None, None, "k1", "k2", "k3")
ANY = tuple(range(12))
"""Which of the things there are, counted from the newest, over and over."""
HOURS = 3_600
DAYS = 24 * HOURS
TIMES = (1, 60, 1_799, 1_800, 2 * HOURS, 26 * HOURS, 15 * DAYS, 35 * DAYS, 36 * DAYS)

COMMANDS: dict[str, Choices] = {
    "record": WHO
    | {
        "event": EVENTS,
        "quantity": (1, 2, 3, 5, 8),
        "key": KEYS,
        "enforce": (True, True, True, False),
        "ahead": (
            None,
            None,
            None,
            None,
            -20,
            -HOURS,
            -30 * HOURS,
            -34 * DAYS,
            -35 * DAYS,
            -36 * DAYS,
            200,
            400,
        ),
    },
    "spree": WHO
    | {
        "event": EVENTS,
        "quantities": ((5, 5, 5), (8, 8, 8, 8), (1, 20), (14, 1, 1)),
        "enforce": (True, True, False),
    },
    "reserve": WHO
    | {"event": EVENTS, "quantity": (1, 3, 6), "key": KEYS, "ttl": (1, 120, 2 * HOURS, 20 * HOURS)},
    "settle": {"which": ANY, "quantity": (None, 0, 1, 4, 9), "other": (None, None, 0, 1, 2)},
    "open": WHO | {"ttl": (None, 60, 3 * HOURS), "key": KEYS},
    "renew": {"which": ANY, "ttl": (None, 60, 3 * HOURS)},
    "close": {"which": ANY},
    "change": BUYER
    | {
        "plan": BOUGHT,
        "interval": (None, "monthly", "monthly", "yearly"),
        "days": (*(None,) * 9, 2, 45, 400),
        "operator": (False, False, True),
    },
    "manage": BUYER
    | {
        "action": ("cancel", "cancel", "resume", "set_seats", "set_seats"),
        "seats": (1, 2, 2, 3, SEATS_MAX, SEATS_MAX + 1),
    },
    "status": BUYER
    | {"action": ("suspend", "activate", "activate", "payment_failed", "payment_failed", "payment_received")},
    "limit": {
        "tenant": TENANT,
        "who": ANYBODY,
        "place": (
            ("messages", "day"),
            ("messages", "week"),
            ("messages", "billing_period"),
            ("gemini_calls", "month"),
            ("tool_calls", "week"),
        ),
        "maximum": (None, 0, 4, 33, UNLIMITED),
        "lasts": (None, None, 600, -5),
        "operator": (True, True, False),
    },
    "grant": BUYER
    | {
        "place": (
            *(("messages", "day"),) * 3,
            *(("messages", "hour"),) * 2,
            *(("messages", "month"),) * 2,
            *(("messages", "billing_period"),) * 8,
            ("messages", "minute"),
            ("messages", "lifetime"),
            ("gemini_calls", "month"),
            ("cost", "billing_period"),
            ("storage_mb", "level"),
            ("tool_calls", "day"),
        ),
        "quantity": (3, 7, 60),
        "starts": (None, None, None, -2 * HOURS, 26 * HOURS),
        "lasts": (None, 3 * HOURS, 20 * DAYS, 40 * DAYS),
        "quantities": ((), (8, 8), (8, 20, 3), (20, 20)),
        "enforce": (True, False),
    },
    "end_grant": {"which": ANY},
    "publish": {"basic_messages": (12, 12, 6, 20), "late": (0, *range(len(LATE)))},
    "join": {"tenant": TENANT, "user": USERS, "group": (*GROUPS, *GROUPS[:1] * 2)},
    "member": {
        "tenant": TENANT,
        "user": USERS,
        "group": (*GROUPS, *GROUPS[:1] * 2),
        "action": ("add", "add", "remove", "set_role"),
        "role": ("admin", "member"),
    },
}
AROUND: dict[str, Choices] = {
    "again": {"which": ANY},
    "clock": {"seconds": (*TIMES, *TIMES, 200 * DAYS, 410 * DAYS, -1, -40, -3 * HOURS, -30 * HOURS)},
    "edge": {"which": (0, 0, 0, 1, 2), "before": (0, 0, 1)},
    "restart": {},
    "prices": {"edition": tuple(range(len(BOOKS)))},
    "clear": {"tenant": TENANT, "who": ANYBODY},
    "fault": {"kind": ("error", "stop before", "stop after"), "at": tuple(range(40))},
}
DELIVERIES = ("at once", "at once", "at once", "later", "later", "newest first", "twice", "all but the first")
"""What becomes of the requests under way; those that are left arrive with the next ones."""
WEIGHTS: dict[str, int] = {
    "record": 16,
    "reserve": 8,
    "settle": 8,
    "open": 4,
    "clock": 8,
    "again": 4,
    "fault": 8,
} | {
    "change": 7,
    "manage": 4,
    "status": 3,
    "edge": 4,
    "publish": 2,
    "limit": 5,
    "grant": 7,
    "end_grant": 2,
    "clear": 3,
    "join": 4,
    "member": 4,
}
BUYING = WEIGHTS | {"change": 24, "manage": 24, "status": 8, "edge": 16, "fault": 4, "limit": 1}
"""Where subscriptions are what it is about."""
SPENDING = WEIGHTS | {
    "record": 32,
    "spree": 20,
    "reserve": 14,
    "settle": 16,
    "clock": 4,
    "change": 9,
    "grant": 20,
    "member": 1,
}
"""Where it is about what is used beyond the limits of what was bought."""


class Story:
    """Turns what was drawn into commands, sends them, and looks at everything after each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.under_way: list[Command] = []
        self.sent: list[list[Command]] = []
        self.fault: Any = None
        self.handles = self.edition = 0

    async def buy(self, dice: random.Random) -> None:
        """Some have a plan to begin with."""
        for who in (*USERS[:2], GROUPS[0]):
            bought = {
                "plan": (dice.choice(PLANS[1:]), None),
                "interval": None,
                "days": None,
                "operator": True,
            }
            drawn = {"tenant": TENANTS[0], "who": who, **bought}
            await self.step("change", drawn, ledger=0, delivery="at once", split=False)

    async def step(
        self, kind: str, drawn: dict[str, Any], *, ledger: int, delivery: str, split: bool
    ) -> None:
        world, ledger = self.world, ledger % len(self.world.ledgers)
        if kind in COMMANDS:
            self.under_way += getattr(self, kind)(**drawn)
        elif kind == "again" and self.sent:
            self.under_way += self.sent[-1 - drawn["which"] % len(self.sent)]
        elif kind == "clock":
            world.clock.advance(seconds=drawn["seconds"])
        elif kind == "edge":
            # To the very instant at which something ends, or the last one before.
            for end in world.edges()[drawn["which"] :][:1]:
                world.clock.now = max(world.clock.now, end - drawn["before"])
        elif kind == "fault":
            self.fault = (drawn["kind"], drawn["at"])
        elif kind == "prices":
            self.edition = drawn["edition"]
        elif kind == "clear":  # alone: by it the ledger's clock goes on
            await world.do(ledger, [a_clearing(self.subject(drawn["tenant"], drawn["who"]))])
        elif kind == "restart":
            await world.ledgers[ledger].close()
            await world.start(ledger)
        if delivery == "later":
            return
        batch = self.delivered(delivery)
        if batch:
            fault, self.fault = self.fault, None
            self.sent.append(batch)
            await world.do(ledger, batch, fault, split=split)
        await world.look(world.dice.randrange(len(world.ledgers)))

    def delivered(self, delivery: str) -> list[Command]:
        """What arrives of the requests under way, and in which order."""
        commands, self.under_way = self.under_way, []
        if delivery == "newest first":
            return commands[::-1]
        if delivery == "twice":
            self.under_way = list(commands)
        if delivery == "all but the first":
            self.under_way, commands = commands[:1], commands[1:]
        return commands

    def record(self, tenant, user, event, quantity, key, enforce, ahead):
        name, attributes = event
        if name == "storage" and quantity in FALLING:
            quantity = -quantity
        at = None if ahead is None else self.world.clock.now + ahead * 1_000_000
        who = a_subject(user, tenant)
        fields = {"attributes": attributes, "enforce": enforce, "occurred_at": at}
        return [self.priced(a_record(who, name, quantity, key=key, **fields))]

    def spree(self, tenant, user, event, quantities, enforce):
        """Much at a time: what is sold beyond limits begins where these are full."""
        how = {"key": None, "enforce": enforce, "ahead": None}
        return [one for many in quantities for one in self.record(tenant, user, event, many, **how)]

    def reserve(self, tenant, user, event, quantity, key, ttl):
        name, attributes = event
        who = a_subject(user, tenant)
        return [self.priced(a_reserve(who, name, quantity, key=key, attributes=attributes, ttl_seconds=ttl))]

    def priced(self, command):
        """The same request may come at another price, and is known all the same."""
        command.price = price_of(command.event, command.attributes, self.edition)
        return command

    def settle(self, which, quantity, other):
        one = self.pick(self.world.model.reservations, which)
        if one is None:
            return []
        is_call = one.told[0] == "llm_call"
        attributes = OTHER_CALLS[other] if other is not None and is_call else None
        settle = a_settle(one.id, quantity, tenant=one.account[0], attributes=attributes)
        settle.price = price_of(one.told[0], attributes, self.edition)
        return [settle]

    def open(self, tenant, user, ttl, key):
        return [an_opening(a_subject(user, tenant), ttl_seconds=ttl, key=key)]

    def renew(self, which, ttl):
        one = self.pick(self.world.model.accounts.sessions, which)
        return [RenewSession(one.account[0], one.id, None, ttl)] if one else []

    def close(self, which):
        one = self.pick(self.world.model.accounts.sessions, which)
        return [CloseSession(one.account[0], one.id)] if one else []

    def change(self, tenant, who, plan, interval, days, operator):
        plan, seats = plan
        fields = {"interval": interval, "seats": seats, "duration_days": days, "actor": self.actor(who)}
        if operator or days is not None:
            fields |= {"actor": "olivia", "role": "tenant_admin", "origin": "operator"}
        return self.shown_and_done(lambda **how: a_change(plan, self.subject(tenant, who), **fields, **how))

    def manage(self, tenant, who, action, seats):
        fields = {"actor": self.actor(who), "seats": seats if action == "set_seats" else None}
        subject = self.subject(tenant, who)
        return self.shown_and_done(lambda **how: a_subscription_change(action, subject, **fields, **how))

    def shown_and_done(self, asked):
        self.handles += 1
        handle = f"handle-{self.handles}"
        return [asked(offer=handle), asked(confirmation=handle)]

    def actor(self, who):
        """Themselves; what is done to a group, one of its users does."""
        return USERS[0] if who in GROUPS else who

    def status(self, tenant, who, action):
        return [a_status(action, self.subject(tenant, who))]

    def limit(self, tenant, who, place, maximum, lasts, operator):
        until = None if lasts is None else self.world.clock.now + lasts * 1_000_000
        meter, window = place
        change = a_limit_set(maximum, self.subject(tenant, who), meter=meter, window=window, expires_at=until)
        if not operator:
            change.actor = Actor("ada", "admin")
        return [change]

    def grant(self, tenant, who, place, quantity, starts, lasts, quantities, enforce):
        """More of a limit, and enough use at once to come near it."""
        now, reason = self.world.clock.now, "a good customer"
        starts, until = (None if one is None else now + one * 1_000_000 for one in (starts, lasts))
        subject, olivia = self.subject(tenant, who), Actor("olivia", "tenant_admin")
        given = GrantAllowance(subject, olivia, *place, quantity, reason, starts, until)
        event = ("tool_call", {}) if place[0] == "tool_calls" else ("message", {})
        return [given, *self.spree(tenant, self.actor(who), event, quantities, enforce)]

    def end_grant(self, which):
        one = self.pick(self.world.model.accounts.grants, which)
        if one is None:
            return []
        subject = self.subject(one.account[0], one.user or one.account[2])
        return [EndGrant(subject, Actor("olivia", "tenant_admin"), one.id, "a mistake")]

    def publish(self, basic_messages, late):
        return [self.world.publication(basic_messages, late)]

    def join(self, tenant, user, group):
        return [Arrive(a_subject(user, tenant, group=group))]

    def member(self, tenant, user, group, action, role):
        operator = {"actor": "olivia", "actor_role": "tenant_admin"}
        return [a_member_change(action, user, group, tenant=tenant, role=role, **operator)]

    def subject(self, tenant: str, who: str) -> Subject:
        if who in GROUPS:
            return Subject(tenant, None, account=who, account_kind="group")
        return a_subject(who, tenant)

    def pick(self, things, which):
        heard = [one for one in things if one.id is not None]
        return heard[-1 - which % len(heard)] if heard else None
