"""The weights of fitted estimators, for tests of reproducibility."""

import torch


def weights(estimator):
    return [p.detach().clone() for p in estimator.module_.parameters()]


def same_weights(first, second):
    return all(torch.equal(p, q) for p, q in zip(weights(first), weights(second), strict=True))
