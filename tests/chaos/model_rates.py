"""Rates cleared the long way round: of each holder and meter, when that was last."""

from tests.chaos.model_lifecycle import No
from tests.chaos.model_sessions import AccountsAndSessions


class AccountsSessionsAndRates(AccountsAndSessions):
    def __init__(self, default):
        super().__init__(default)
        self.cleared = {}

    def counts_from(self, account, user, meter, window, length):
        """From when on use counts in a window that slides: of a user, or of everybody in the account."""
        holder = account[2] if account[1] == "personal" else user or ""
        return max(self.now - length + 1, self.cleared.get((account, holder, meter, window), 0))

    def ClearRate(self, command):
        account, user, held = self.known(command)
        scope = "user" if user else "account"
        if held is None:
            raise No("payment_required")
        rates = [key for key in self.limits(account, user, held.plan) if key[1] == "minute"]
        own = [key for key in rates if account[1] == "personal" or key[2] == scope]
        if not own:
            raise No("invalid_request")
        self.cleared |= {(account, user, meter, window): self.now for meter, window, _ in own}
        return {"code": "ok", "limits": self.standing(account, user, held)}
