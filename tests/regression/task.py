"""Regression as a Task."""

import torch

from tests.regression.loss import loss
from tests.regression.metrics import RegressionMetrics


class Regression:
    score, least, steady = "r2", 0.0, True

    def __init__(self, model, beta):
        self.model, self.beta = model, beta

    def losses(self, images, targets):
        return loss(self.model(images)[:, 0].float(), targets, self.beta)

    def amount(self, targets):
        return torch.tensor(float(len(targets)), device=targets.device)

    def predict(self, images):
        return self.model(images)[:, 0]

    def metrics(self):
        return RegressionMetrics()

    def kept(self, weights):
        return weights

    def uncertainty(self, numbers):
        return 0.0
