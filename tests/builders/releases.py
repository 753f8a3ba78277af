"""Which of the two releases of Flower that are tested a dear test runs on."""

import pytest

from builders.waiting import ALL_TESTS
from fedneg.engines.releases import flower_release, speaks_grpc

OLDEST = speaks_grpc(flower_release())
# What hangs on Flower's release in nothing that other tests do not do on both.
on_the_oldest = pytest.mark.skipif(
    not ALL_TESTS and not OLDEST,
    reason="runs on the oldest Flower; on this one with FEDNEG_ALL_TESTS=1",
)
on_the_newest = pytest.mark.skipif(
    not ALL_TESTS and OLDEST,
    reason="runs on the newest Flower; on this one with make test-all",
)
