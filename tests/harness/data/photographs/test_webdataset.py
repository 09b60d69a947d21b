"""Tar shards: their layout, names of classes, and what is wrong with a shard."""

import dataclasses
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data import WebDatasetConfig, open_dataset
from harness.data.photographs.config import expand_braces
from harness.data.photographs.tar_index import SampleNames, index_shard
from harness.storage.user_cache import CACHE_VARIABLE

from .photograph_files import NAMES, labels_of, photographs, png, samples, write_kind, write_tar

CLS = SampleNames(label_extension="cls", label_key="label", image_extension=None)


@pytest.fixture
def config(tmp_path: Path) -> WebDatasetConfig:
    config = write_kind("webdataset", tmp_path)
    assert isinstance(config, WebDatasetConfig)
    return config


def test_shards_are_listed_by_braces_or_patterns_in_order(config, tmp_path):
    assert expand_braces("a-{008..011}.tar") == [f"a-{n}.tar" for n in ("008", "009", "010", "011")]
    assert expand_braces("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    plain = open_dataset(config)
    braces = dataclasses.replace(config, train_files=("train-{0001..0001}.tar", "train-*.tar"))
    images = open_dataset(braces).images("train", np.arange(12))
    assert torch.equal(images[:6], plain.images("train", np.arange(6, 12)))
    assert torch.equal(images[6:], plain.images("train", np.arange(6)))
    (item,) = dataclasses.replace(config, train_files=("train-{0000..0002}.tar",)).missing()
    assert item.location == str(tmp_path / "train-0002.tar")


def test_a_pattern_may_lie_outside_of_the_root(config, tmp_path):
    absolute = (f"{tmp_path}/train-*.tar",)
    moved = dataclasses.replace(config, root="elsewhere", train_files=absolute)
    assert moved.files("train") == sorted(tmp_path.glob("train-*.tar"))
    assert {item.location for item in moved.missing()} == {"elsewhere/val-*.tar"}


@pytest.mark.parametrize("pattern", ["a-{0..", "a-{5..3}.tar", "a-{x}.tar", "a}"])
def test_braces_that_mean_nothing_are_refused(pattern):
    with pytest.raises(ValueError, match=r"braces must .* write \{000\.\.012\}"):
        expand_braces(pattern)


def test_labels_may_stand_in_json_and_other_members_are_passed_over(config, tmp_path):
    members = []
    for number, data in enumerate(photographs(12, 1200)):
        members += [
            (f"some/{number}.json", b'{"kind": %d, "text": "a photograph"}' % (number % 3)),
            (f"some/{number}.txt", b"a caption"),
            (f"some/{number}.PNG", data),
        ]
    write_tar(tmp_path / "json-0.tar", members)
    plain = open_dataset(config)
    for number, data in enumerate(photographs(6, 600)):
        members = [(f"{number}.png", data), (f"{number}.json", b'{"kind": %d}' % (number // 2))]
        write_tar(tmp_path / f"jeval-{number}.tar", members)
    files = {"train_files": ("json-0.tar",), "eval_files": ("jeval-*.tar",)}
    dataset = open_dataset(
        dataclasses.replace(config, label_extension="json", label_key="kind", **files)
    )
    assert dataset.labels("train").tolist() == [0, 1, 2] * 4
    order = np.arange(12)
    assert torch.equal(dataset.images("train", order), plain.images("train", order))


def test_classes_are_named_by_the_configuration_a_file_or_their_numbers(config, tmp_path):
    assert open_dataset(config).class_names == NAMES
    unnamed = dataclasses.replace(config, class_names=())
    assert open_dataset(unnamed).class_names == ("0", "1", "2")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    named = dataclasses.replace(unnamed, class_names_file=str(tmp_path / "classes.txt"))
    assert open_dataset(named).class_names == NAMES
    (tmp_path / "classes.txt").write_text("ant\nbird")
    with pytest.raises(ValueError, match=r"must hold 3 class names .* 2 were found"):
        open_dataset(named)
    with pytest.raises(ValueError, match="correct the path"):
        open_dataset(dataclasses.replace(named, class_names_file=str(tmp_path / "none.txt")))
    with pytest.raises(ValueError, match="must not be given together"):
        dataclasses.replace(named, class_names=NAMES)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", png(0))], r"1 of .*the first 'a', which has no label"),
        ([("a.cls", b"0")], r"the first 'a', which has no image"),
        ([*samples([png(0)], [0]), ("000000.jpg", png(1))], r"one image, but '000000' .*has two"),
        ([("a.png", png(0)), ("a.cls", b"fly")], r"'a.cls' of .* must hold a label"),
        ([("a.png", png(0)), ("a.cls", b"\xff")], r"'a.cls' of .* must hold a label"),
        ([("a.png", png(0)), ("a.cls", b"")], r"'a.cls' of .* must hold a label"),
        ([("a.png", png(0)), ("a.cls", b"9" * 30)], r"'a.cls' of .* must hold a label"),
        (samples([png(0)], [3]), r"0\.\.2, but 1 of .*the first in sample 0 \(3\)"),
        (samples([png(0)], [-1]), r"0\.\.2, but 1 of"),
        (samples([png(0)], [0]), r"must hold 6 images .* 1 were found"),
        ([], r"must hold 6 images .* 0 were found; fill it"),
    ],
)
def test_a_shard_that_is_not_as_declared_is_refused(config, tmp_path, members, message):
    (tmp_path / "val-0001.tar").unlink()
    write_tar(tmp_path / "val-0000.tar", members)
    with pytest.raises(ValueError, match=message):
        open_dataset(config)


def test_a_shard_cut_anywhere_is_named_or_whole(config, tmp_path):
    path = tmp_path / "train-0001.tar"
    content, whole = path.read_bytes(), open_dataset(config)
    with tarfile.open(path) as shard:
        last = shard.getmembers()[-1]
    end = last.offset_data + tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE
    for cut in (*range(0, len(content), 512), 1, 700, 2561, 3073, end - 1, end + 1):
        path.write_bytes(content[:cut])
        if cut < end:
            with pytest.raises(ValueError, match=r"train-0001.tar' must be a whole, .* get it"):
                open_dataset(config)
        else:
            assert open_dataset(config).labels("train").tolist() == whole.labels("train").tolist()


def test_a_damaged_header_or_a_hole_is_not_taken_for_the_end_of_a_shard(config, tmp_path):
    path = tmp_path / "train-0001.tar"
    content = path.read_bytes()
    with tarfile.open(path) as shard:
        members = shard.getmembers()
    # A hole from the last sample on cannot be told from the end; the declared count tells it.
    for first in (member.offset for member in members[:-2]):
        for damage in (b"\xff", bytes(512), bytes(1024), bytes(4096)):
            path.write_bytes(content[:first] + damage + content[first + len(damage) :])
            with pytest.raises(ValueError, match=r"train-0001.tar' must be a whole"):
                open_dataset(config)


def _add(shard: tarfile.TarFile, members: Sequence[tuple[str, bytes]]) -> None:
    for name, data in members:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        shard.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w|", "a"])
def test_shards_are_whole_however_tarfile_writes_them(config, tmp_path, kind, mode):
    expected = open_dataset(config).images("train", np.arange(12))
    path = tmp_path / "train-0001.tar"
    path.unlink()
    members = samples(photographs(12, 1200)[6:], labels_of(12)[6:], 6)
    for part in [members[:5], members[5:]] if mode == "a" else [members]:
        with tarfile.open(path, mode, format=kind) as shard:
            _add(shard, part)
    assert torch.equal(open_dataset(config).images("train", np.arange(12)), expected)


@pytest.mark.skipif(shutil.which("tar") is None, reason="the command tar is not installed")
@pytest.mark.parametrize("options", ["-b1", "-b200", "--format=v7", "--format=pax"])
def test_shards_of_the_command_tar_are_whole(config, tmp_path, options):
    expected = open_dataset(config).images("train", np.arange(12))
    path, folder = tmp_path / "train-0001.tar", tmp_path / "members"
    with tarfile.open(path) as shard:
        names = shard.getnames()
        shard.extractall(folder, filter="data")
    subprocess.run(["tar", options, "-cf", path, *names], cwd=folder, check=True)
    assert torch.equal(open_dataset(config).images("train", np.arange(12)), expected)


def test_a_missing_shard_is_refused_by_the_count_and_not_declared_away(config, tmp_path):
    (tmp_path / "train-0000.tar").unlink()
    with pytest.raises(ValueError, match="6 were found; put back what is missing") as raised:
        open_dataset(config)
    assert "declare 6" not in str(raised.value)
    for number in (1, 2):
        (tmp_path / f"train-000{number}.tar").unlink(missing_ok=True)
        write_tar(tmp_path / f"train-{number}-of-2.tar", samples(photographs(6, number), [0] * 6))
    assert open_dataset(config).num_images("train") == 12
    (tmp_path / "train-2-of-2.tar").unlink()
    (item,) = config.missing()
    assert item.location.startswith(str(tmp_path / "train-"))


@pytest.mark.parametrize("damage", ["truncated", "compressed", "no tar"])
def test_a_damaged_shard_is_named(config, tmp_path, damage):
    path = tmp_path / "val-0001.tar"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1500])
    elif damage == "no tar":
        path.write_bytes(b"nothing" * 1000)
    else:
        with tarfile.open(path, "w:gz") as shard:
            shard.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    with pytest.raises(ValueError, match=r"val-0001.tar' must be a whole, uncompressed tar file"):
        open_dataset(config)


def test_a_shard_that_vanishes_or_changes_is_named(config, tmp_path):
    dataset = open_dataset(config)
    (tmp_path / "train-0001.tar").unlink()
    assert dataset.images("train", np.arange(6)).shape == (6, 3, 16, 16)
    with pytest.raises(ValueError, match=r"train-0001.tar' must stay readable"):
        dataset.images("train", np.arange(12))
    write_tar(tmp_path / "train-0001.tar", samples(photographs(6, 0), [0] * 6))
    with pytest.raises(ValueError, match=r"train-0001.tar' .* than when it was opened; put"):
        dataset.images("train", np.arange(12))


def test_a_shard_written_anew_in_place_is_not_mixed_with_its_old_index(config, tmp_path):
    dataset = open_dataset(config)
    path = tmp_path / "train-0000.tar"
    dataset.images("train", np.arange(12))
    status = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    for use in (
        lambda: dataset.images("train", np.array([3])),
        dataset.fingerprint,
        dataset.content_fingerprint,
    ):
        with pytest.raises(ValueError, match=r"train-0000.tar' must stay as it is"):
            use()
    assert dataset.images("train", np.arange(6, 12)).shape == (6, 3, 16, 16)


def test_an_index_read_while_the_shard_changed_is_not_remembered(config, tmp_path, monkeypatch):
    path = tmp_path / "train-0000.tar"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))

    def change(*_: object) -> None:
        path.touch()

    with monkeypatch.context() as changing:
        changing.setattr("harness.data.photographs.tar_index._check_complete", change)
        index_shard(path, CLS)
    assert not list(tmp_path.rglob("*.json"))
    index_shard(path, CLS)
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_the_index_is_remembered_outside_of_the_data(config, tmp_path, monkeypatch):
    path = tmp_path / "train-0000.tar"
    before = sorted(tmp_path.iterdir())
    first = index_shard(path, CLS)
    assert sorted(tmp_path.iterdir()) == before

    def read(*_: object, **__: object) -> None:
        raise AssertionError("the shard was read again")

    monkeypatch.setattr(tarfile, "open", read)
    again = index_shard(path, CLS)
    assert again.offsets.tolist() == first.offsets.tolist()
    assert again.labels.tolist() == first.labels.tolist()
    path.touch()
    with pytest.raises(AssertionError, match="read again"):
        index_shard(path, CLS)


@pytest.mark.parametrize("torn", ["{}", '{"offsets": [1', "[" * 99_999, '{"offsets": [0.5], "sizes"'
                                  ': [1], "labels": [1]}'])  # fmt: skip
def test_an_index_that_is_torn_is_read_anew(config, tmp_path, monkeypatch, torn):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    first = index_shard(tmp_path / "train-0000.tar", CLS)
    (entry,) = (tmp_path / "cache" / "tar").iterdir()
    entry.write_text(torn)
    assert index_shard(tmp_path / "train-0000.tar", CLS).offsets.tolist() == first.offsets.tolist()
    assert entry.read_text() != torn


def test_a_batch_from_all_over_the_shards_comes_in_the_order_asked_for(tmp_path):
    for number, data in enumerate(photographs(12, 1200)):
        write_tar(tmp_path / f"one-{number:02d}.tar", samples([data], [number // 4]))
    config = write_kind("webdataset", tmp_path, train_files=("one-*.tar",))
    dataset, plain = open_dataset(config), open_dataset(write_kind("webdataset", tmp_path))
    order = np.random.default_rng(0).permutation(12)
    assert torch.equal(dataset.images("train", order), plain.images("train", order))


def _tar(path: Path, kind: str) -> list[bytes]:
    """Six images whose names are of one kind, labels 0, 0, 1, 1, 2, 2."""
    images = photographs(6, 300)
    names = {
        "dotted keys": ("img.{:06d}.png", "img.{:06d}.cls"),
        "upper case": ("{:06d}.PNG", "{:06d}.CLS"),
        "two images": ("{:06d}.input.png", "{:06d}.cls"),
        "beside others": ("{:06d}.png", "{:06d}.cls"),
    }[kind]
    members = []
    for number, data in enumerate(images):
        image, label = (name.format(number) for name in names)
        members += [(image, data), (label, str(number // 2).encode()), (f"._{image}", b"no image")]
        if kind == "two images":
            members.append((f"{number:06d}.target.png", png(number)))
        if kind == "beside others":
            members.append((f"{number:06d}.seg.png", png(number)))
    write_tar(path, members)
    return images


@pytest.mark.parametrize("kind", ["dotted keys", "upper case", "two images", "beside others"])
def test_names_of_members_as_others_write_them(config, kind):
    images = _tar(Path(config.root) / "train-x.tar", kind)
    extra = {"image_extension": "input.png"} if kind == "two images" else {}
    config = dataclasses.replace(config, train_files=("train-x.tar",), num_train_images=6, **extra)
    split = config.open_split("train")
    assert split.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [image.content() for image in split.read(np.arange(6))] == images
    if extra:
        with pytest.raises(ValueError, match=r"which has no .*`image_extension`"):
            dataclasses.replace(config, image_extension=None).open_split("train")


def test_a_label_of_a_terabyte_is_refused_unread(config):
    path = Path(config.root) / "train-x.tar"
    write_tar(path, [("a.png", png(0)), ("a.cls", b"0" * (2**20 + 1))])
    with pytest.raises(ValueError, match=r"'a\.cls' has 1,048,577 bytes, more than 1,048,576"):
        index_shard(path, CLS)


@pytest.mark.parametrize(
    ("end", "label"),
    [("cls", lambda n: n.encode() + b"\n"), ("json", lambda n: b'{"label": "%s"}' % n.encode())],
)
def test_labels_may_be_the_names_of_classes(config, tmp_path, end, label):
    names = [NAMES[number % 3] for number in range(12)]
    members = [
        member
        for number, data in enumerate(photographs(12, 1200))
        for member in ((f"{number}.png", data), (f"{number}.{end}", label(names[number])))
    ]
    write_tar(tmp_path / "train-0000.tar", members)
    given = dataclasses.replace(config, train_files=("train-0000.tar",), label_extension=end)
    assert given.open_split("train").labels.tolist() == [0, 1, 2] * 4
    with pytest.raises(ValueError, match="or one of `class_names`, but does not"):
        dataclasses.replace(given, class_names=("x", "y", "z")).open_split("train")
