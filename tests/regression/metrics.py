"""Mean absolute error and the share of variance that is explained."""

import torch


class RegressionMetrics:
    def __init__(self, records=()):
        self.records = list(records)

    def update(self, numbers, targets):
        self.records.append(torch.stack([numbers.float().cpu(), targets.float().cpu()], dim=1))

    def state(self):
        return self.table()

    def table(self):
        """float32 [n, 2]: what the model says, and what is right."""
        return torch.cat(self.records) if self.records else torch.zeros(0, 2)

    def merged(self, states, order):
        return RegressionMetrics([torch.cat(list(states))[list(order)]])

    def scalars(self):
        found, truth = self.table().double().T
        if not len(truth):
            return {"n": 0, "mae": None, "r2": None}
        spread = ((truth - truth.mean()) ** 2).sum()
        r2 = float(1 - ((found - truth) ** 2).sum() / spread) if spread > 0 else None
        return {"n": len(truth), "mae": float((found - truth).abs().mean()), "r2": r2}

    def compute(self):
        return self.scalars()
