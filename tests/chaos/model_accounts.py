"""Who is in which group, holds which plan and has which limits, the long way round. What they have used of these
`model.py` adds up: it is what `standing` asks. What becomes of a plan by time and by changes is in
`model_lifecycle.py` and `model_changes.py`."""

from dataclasses import replace

from tests.chaos.model_lifecycle import DAY, Held, No


class Accounts:
    def __init__(self, default="basic"):
        self.now, self.plans, self.versions, self.default = 0, {}, [], default
        self.held, self.groups, self.caps, self.trials = {}, {}, {}, {}

    def home(self, subject):
        group = self.groups.get((subject.tenant, subject.user)) if subject.user else subject.account
        return (subject.tenant, "group", group) if group else (subject.tenant, "personal", subject.user)

    def members(self, account):
        return sum((tenant, "group", group) == account for (tenant, _), group in self.groups.items())

    def seats_max(self, held):
        bought = held.seats if held.plan.price.per_seat else None
        return min([one for one in (held.plan.seats_max, bought) if isinstance(one, int)], default=None)

    def is_full(self, account, held):
        """Whether nobody may come any more, also with what is held next."""
        then = held.then.held if held and held.then else None
        most = [self.seats_max(one) for one in (held, then) if one]
        return any(one and self.members(account) >= one for one in most)

    def held_by(self, account, user=None):
        """What an account holds now; at first sight the default plan, and nothing where there is none."""
        if account in self.held:
            return self.held[account].at(self.now)
        if self.default is None:
            return None
        held = Held(self.plans[self.default], self.now)
        had = self.trials.get((account[0], user))
        days = held.plan.trial_days
        return replace(held, trial_ends=had or self.now + days * DAY) if days else held

    def know(self, account, user=None):
        """First sight: it holds a plan from now on. There is one trial for each user."""
        held = self.held_by(account, user)
        if held:
            self.hold(account, held, user)

    def hold(self, account, held, user=None):
        user = account[2] if account[1] == "personal" else user
        if held.trial_ends and held.trial_ends != (account in self.held and self.held[account].trial_ends):
            self.trials[account[0], user] = held.trial_ends
        self.held[account] = held

    def limits(self, account, user, plan):
        """The plan's limits; what was set by hand takes their place, the user's own before the group's."""
        limits = {(one.meter, one.window.name, one.scope): one.maximum for one in plan.limits}
        pools = {key[:2] for key in limits}
        for holder in ("", user) if account[1] == "group" else (user,):
            for key, (maximum, until) in self.caps.get((account, holder), {}).items():
                if key[:2] in pools and (until is None or self.now < until):
                    limits[key] = maximum
        return limits

    def must_be_there(self, subject):
        """The whole of a group can only be asked for once it has a plan or somebody in it."""
        account = self.home(subject)
        if not subject.user and account not in self.held and not self.members(account):
            raise No("not_found")
        return account, subject.user or ""

    def view(self, subject, account=None):
        account, user = (account, subject.user) if account else self.must_be_there(subject)
        held, told = self.held_by(account, user), {"code": "ok", "held": None, "limits": {}}
        told["seats"] = self.members(account) if account[1] == "group" else None
        if held:
            then = held.then and (held.then.at, held.then.why, held.then.held and held.then.held.plan.key)
            told["held"] = (*held.kind, held.plan.version, held.status(self.now), *held.period(self.now))
            told["ends"] = (held.trial_ends, held.until, held.seats, then)
            told["limits"] = self.standing(account, user, held)
        return told

    def Arrive(self, command):
        subject = command.subject
        account = (subject.tenant, "group", subject.group) if subject.group else self.home(subject)
        if subject.group and self.groups.get((subject.tenant, subject.user)) != subject.group:
            held = self.held_by(account, subject.user)
            if self.is_full(account, held):
                raise No("conflict")
            self.groups[subject.tenant, subject.user] = subject.group
        self.know(account, subject.user)
        return self.view(subject, account)

    def known(self, command):
        """Whose it is, what they hold; only of oneself something is changed before anybody has come."""
        account, user = self.must_be_there(command.subject)
        if not (account in self.held or command.actor.user == user or self.members(account)):
            raise No("not_found")
        return account, user, self.held_by(account, user)

    def SetLimit(self, command):
        account, user, held = self.known(command)
        if held and held.still(self.now) and command.actor.role != "tenant_admin":
            raise No(held.still(self.now))
        place = (command.meter, command.window)
        if held is None:
            raise No("payment_required")
        scopes = [one.scope for one in held.plan.limits if (one.meter, one.window.name) == place]
        if not scopes:
            raise No("invalid_request")
        own = "user" if user else "account"
        key = (*place, own if own in scopes or (user and account[1] == "group") else scopes[0])
        caps = self.caps.setdefault((account, user), {})
        if command.maximum is None and not caps.pop(key, None):
            raise No("not_found")
        if command.maximum is not None:
            if command.expires_at and command.expires_at <= self.now:
                raise No("invalid_request")
            caps[key] = (command.maximum, command.expires_at)
        return {"code": "ok", "limits": self.standing(account, user, held)}

    def PublishPlans(self, command):
        self.plans = {}
        for plan in command.plans:
            known = [one for one in self.versions if one.key == plan.key]
            same = [one for one in known if one.definition == plan.definition]
            self.plans[plan.key] = same[0] if same else plan.with_version(len(known) + 1)
            self.versions += [] if same else [self.plans[plan.key]]
        return {"code": "ok", "versions": {key: plan.version for key, plan in self.plans.items()}}
