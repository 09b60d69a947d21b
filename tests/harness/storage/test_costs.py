"""What finished stages took is known without reading the artifacts, and is made anew."""

import shutil

import pytest

from harness.storage.artifacts import Store
from harness.storage.costs import FOLDER, keep_costs, read_costs


def publish(store: Store, key: str, *, flops: float = 1e9, wall_s: float = 1.0) -> None:
    cost = {"wall_s": wall_s, "gpus": 0.0, "cpus": 1, "estimated_flops": flops}
    with store.work("generator", key) as work:
        work.publish(
            {"kind": "generator", "result": {}, "cost": cost, "environment": {"device": "cpu"}}
        )


def taken(store: Store) -> list[tuple[float, float]]:
    costs = [record.get("cost", {}) for record in read_costs(store.root)]
    return sorted((cost["estimated_flops"], cost["wall_s"]) for cost in costs if cost)


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "store")
    keep_costs(store.root)
    assert not store.root.exists(), "nothing is made where there is no store"
    publish(store, "a")
    keep_costs(store.root)
    return store


def test_of_one_size_the_last_is_kept_and_another_size_beside_it(store) -> None:
    publish(store, "b", wall_s=2.0)
    publish(store, "c", flops=5e9, wall_s=3.0)
    for key in "abc":
        (store.folder("generator", key) / "artifact.json").unlink()
    assert taken(store) == [(1e9, 2.0), (5e9, 3.0)]


def test_a_store_that_knows_not_all_is_read_whole_until_a_run_takes_it_down(store) -> None:
    publish(store, "b", flops=5e9)
    shutil.rmtree(store.root / FOLDER)
    publish(store, "c", flops=7e9)
    assert len(taken(store)) == 3
    assert len(list((store.root / FOLDER).iterdir())) == 1, "reading writes nothing"
    keep_costs(store.root)
    assert len(list((store.root / FOLDER).glob("*.json"))) == len(taken(store)) == 3


def test_what_is_torn_or_cannot_be_written_is_let_go(store) -> None:
    next((store.root / FOLDER).glob("*.json")).write_text("{")
    assert taken(store) == []
    shutil.rmtree(store.root / FOLDER)
    (store.root / FOLDER).touch()
    publish(store, "b", flops=5e9)
    keep_costs(store.root)
    assert len(taken(store)) == 2
