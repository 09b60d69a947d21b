"""A head that is gone is told by us, before Ray ends the process; one that comes back is not."""

import time
from socket import create_server

import pytest

from harness.executors import ray_head
from harness.executors.ray_head import Head

SOON_S = 0.3


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ray_head, "PATIENCE_S", SOON_S)
    monkeypatch.setattr(ray_head, "POLL_S", 0.05)


def head_that_ends(*, shared: bool = True) -> Head:
    with create_server(("127.0.0.1", 0)) as server:
        head = Head(f"127.0.0.1:{server.getsockname()[1]}", shared=shared)
        assert head.look()
    return head


def test_patience_ends_before_rays_own():
    assert ray_head.PATIENCE_S + ray_head.CONNECT_S + ray_head.POLL_S < 30


def test_a_short_silence_is_no_error():
    head = head_that_ends()
    assert not head.look()
    assert not head.look()


def test_a_head_that_comes_back_has_all_its_time_again(impatient):
    head = head_that_ends()
    assert not head.look()
    time.sleep(SOON_S)
    with create_server(head._place):
        head.require()
    assert not head.look()


@pytest.mark.parametrize(("shared", "remedy"), [(True, "ray start --head"), (False, "of memory")])
def test_a_head_that_stays_away_is_told_with_the_remedy(impatient, shared, remedy):
    head = head_that_ends(shared=shared)
    with pytest.raises(ConnectionError, match=remedy) as error:
        head.require()
    assert f"must answer at {head.address}, but has not" in str(error.value)


def test_an_address_of_ipv6_is_understood():
    assert Head("[::1]:6379", shared=True)._place == ("::1", 6379)
