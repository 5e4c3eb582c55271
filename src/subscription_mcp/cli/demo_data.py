"""Demo data: 90 days of two tenants, every event through the real write path with its own clock."""

import random
from dataclasses import dataclass

from subscription_mcp.assembly import Clock, catalog_of, make_service, opened, system_clock
from subscription_mcp.domain.instants import DAY, HOUR, MINUTE, Instant
from subscription_mcp.ledger.commands import Actor, Arrive, ChangePlan, Command, RecordUsage, Subject
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.settings import Settings

DAYS = 90
SEED = 20_260_728
TOOLS = ("web_search", "calculator", "calendar", "code_runner")
HOURS_OF_USE = (9, 13, 18)
WEEKEND_SHARE = 0.35

FIRST_NAMES = {
    "acme": (
        "bella",
        "adam",
        "petra",
        "nils",
        "oona",
        "paul",
        "quinn",
        "rosa",
        "sven",
        "tilda",
        "uma",
        "vera",
    ),
    "globex": ("ada", "bram", "cleo", "dora", "egon", "fay", "gus", "hana", "ivan", "jule"),
}
TIER_OF = {"bella": "basic", "adam": "advanced", "petra": "premium", "ada": "premium"}
MESSAGES_A_DAY = {"basic": 7, "advanced": 16, "premium": 34}
UPGRADES = {"rosa": (35, "advanced"), "fay": (50, "advanced"), "paul": (61, "premium")}
"""After how many days somebody moved to which plan."""
QUIET_TODAY = frozenset({"bella"})


@dataclass(slots=True)
class Resident:
    """One user of the demonstration."""

    tenant: str
    user: str
    tier: str
    joins_on_day: int

    @property
    def subject(self) -> Subject:
        return Subject(self.tenant, self.user)


class SteppedClock:
    """The ledger's clock while the past is made: it stands wherever the story is."""

    def __init__(self, start: Instant) -> None:
        self.now = start

    def __call__(self) -> Instant:
        return self.now


async def seed(settings: Settings, clock: Clock = system_clock) -> int:
    """Make the data in an empty ledger; how many events that were."""
    dice = random.Random(SEED)
    now = clock()
    midnight = now - now % DAY
    story = SteppedClock(midnight - DAYS * DAY)
    catalog = catalog_of(settings)
    residents = _residents(dice)
    count = 0
    async with opened(make_service(settings, catalog, story), catalog) as service:
        for day in range(DAYS + 1):
            morning = midnight - (DAYS - day) * DAY
            await _arrivals_and_upgrades(service.ledger, story, residents, day, morning)
            for hour in HOURS_OF_USE:
                at = morning + hour * HOUR
                if at >= now - MINUTE:
                    break
                story.now = at
                commands = _usage(dice, residents, day, morning)
                await service.ledger.submit(commands)
                count += len(commands)
    return count


def _residents(dice: random.Random) -> list[Resident]:
    residents = []
    for tenant, users in FIRST_NAMES.items():
        for user in users:
            tier = TIER_OF.get(user) or dice.choices(("basic", "advanced", "premium"), (6, 3, 1))[0]
            joins = 0 if user in TIER_OF else dice.randrange(0, 30)
            residents.append(Resident(tenant, user, "basic" if user in UPGRADES else tier, joins))
    return residents


async def _arrivals_and_upgrades(
    ledger: Ledger, story: SteppedClock, residents: list[Resident], day: int, morning: Instant
) -> None:
    story.now = morning + 8 * HOUR
    for resident in residents:
        if resident.joins_on_day == day:
            await ledger.submit_one(Arrive(Subject(resident.tenant, resident.user, tier=resident.tier)))
        if UPGRADES.get(resident.user, (None,))[0] == day:
            resident.tier = UPGRADES[resident.user][1]
            actor = Actor(resident.user, "holder")
            change = ChangePlan(resident.subject, actor, resident.tier, b"demo", "monthly", offer="demo")
            await ledger.submit_one(change)
            change.offer, change.confirmation = None, "demo"
            await ledger.submit_one(change)


def _usage(dice: random.Random, residents: list[Resident], day: int, morning: Instant) -> list[Command]:
    weekend = (morning // DAY + 3) % 7 >= 5  # 1970-01-01 was a Thursday
    commands: list[Command] = []
    for resident in residents:
        if resident.joins_on_day > day or (day == DAYS and resident.user in QUIET_TODAY):
            continue
        mean = MESSAGES_A_DAY[resident.tier] / len(HOURS_OF_USE) * (WEEKEND_SHARE if weekend else 1)
        for _ in range(max(0, round(dice.gauss(mean, mean / 2)))):
            commands.append(RecordUsage(resident.subject, "message", "chat-backend"))
            if resident.tier != "basic" and dice.random() < 0.15:
                attributes = {"tool": dice.choice(TOOLS)}
                commands.append(RecordUsage(resident.subject, "tool_call", "chat-backend", 1, attributes))
    return commands
