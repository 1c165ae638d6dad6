"""What a study writes to which disk, and whether there is room."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.schema import Config
from sweeper.errors import ModelError, StoreError
from sweeper.models import copies
from sweeper.paths import Home
from sweeper.preflight import disk
from sweeper.preflight.disk import Need
from sweeper.preflight.model import admit, foresee, survey
from sweeper.units import GIB, MIB
from tests.preflight.test_plan import TINY_WIDTHS

Usage = type(shutil.disk_usage("/"))


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how much is free on every disk."""
    return lambda size: monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: Usage(10 * size, 0, size))


def sizes(needs: list[Need]) -> dict[str, int]:
    return {need.what: need.size_bytes for need in needs}


def model_of(config: Config, home: Home) -> Any:
    from sweeper.preflight.architecture import model_config

    return model_config(config, home)


@pytest.mark.parametrize(("targets", "widths"), [("all-linear", TINY_WIDTHS), ("attention", None), ("mlp", None)])
def test_an_adapters_values_are_the_formulas(
    composed: Callable[..., Config], home: Home, targets: str, widths: int | None
) -> None:
    config = composed("study=demo", f"lora.target_modules={targets}")
    values = disk.adapter_values(config, model_of(config, home))
    both = disk.adapter_values(composed("study=demo"), model_of(config, home))
    assert both == 64 * TINY_WIDTHS  # the demo's highest rank
    assert values == 64 * widths if widths else 0 < values < both


def test_what_a_study_writes(composed: Callable[..., Config], home: Home) -> None:
    config = composed("study=demo", "search.space.rank=[8]", "engine.slots=2", "store.keep_adapters=5")
    values = 8 * TINY_WIDTHS
    assert sizes(disk.of_study(config, home, model_of(config, home))) == {
        "checkpoints": 3 * 16 * values,
        "adapters that are kept": 5 * 4 * values,
        "the same in MLflow": 5 * 4 * values,
    }
    file = home.study("demo").checkpoint(0)  # what is there already need not be free
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 1000)
    assert sizes(disk.of_study(config, home, model_of(config, home)))["checkpoints"] == 3 * 16 * values - 1000
    less = composed("study=demo", "search.space.rank=[8]", "checkpoint.max_gib=0.001", "search.trials=2")
    assert sizes(disk.of_study(less, home, model_of(less, home))) == {
        "checkpoints": int(0.001 * GIB) - 1000,
        "adapters that are kept": 2 * 4 * values,
        "the same in MLflow": 2 * 4 * values,
    }
    assert disk.of_study(config, home, None) == []


def test_places_on_one_disk_share_it(tmp_path: Path, free: Callable[[int], None]) -> None:
    free(10 * GIB)
    needs = [Need("one", tmp_path / "not" / "there", 4 * GIB, "do a"), Need("two", tmp_path, 3 * GIB, "do b"),
             Need("none", Path("/proc"), 0, "do c")]  # fmt: skip
    [room] = disk.rooms(needs)
    assert (room.needed_bytes, room.free_bytes) == (7 * GIB, 10 * GIB)
    assert disk.check([room]) == []
    free(7 * GIB + MIB)
    [note] = disk.check(disk.rooms(needs))
    assert note.startswith("the disk will be nearly full: 7.0 GiB free for 7.0 GiB: 4.0 GiB one in ")
    free(6 * GIB)
    with pytest.raises(
        StoreError, match=r"6\.0 GiB free for 7\.0 GiB: .*; 3\.0 GiB two in .*Free 1\.0 GiB, or do a, or do b"
    ):
        disk.check(disk.rooms(needs))


def test_a_full_disk_stops_a_launch_and_is_foreseen(
    composed: Callable[..., Config], home: Home, free: Callable[[int], None]
) -> None:
    config, paths = composed("study=demo"), home.study("demo")
    paths.create()
    free(MIB)
    with pytest.raises(StoreError, match=r"1\.0 MiB free for 86\.1 MiB: .*checkpoint\.max_gib.*store\.keep_adapters"):
        admit(config, paths, goes_on=False)
    assert not paths.model.exists()
    rooms, [note] = foresee(config, home)
    assert rooms[0].needed_bytes > MIB
    assert note.startswith("a launch here would stop: the disk must have room")
    free(GIB)
    [note] = admit(config, paths, goes_on=False)
    assert "nearly full" in note
    assert paths.model.exists()


def test_a_quantised_copy_is_counted_where_it_will_be_written(
    composed: Callable[..., Config], home: Home, tmp_path: Path, free: Callable[[int], None]
) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    published = composed("study=demo", "model=qwen2.5-0.5b").model.config
    (folder / "config.json").write_text(json.dumps(published))
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    what = "quantised copy of the base"

    def counted(*overrides: str) -> int | None:
        config = composed("study=demo", "model=hub", f"model.path={folder}", *overrides)
        [room] = survey(config, home).rooms
        assert room.free_bytes - room.needed_bytes >= disk.NEARLY_BYTES or what not in sizes(list(room.needs))
        return sizes(list(room.needs)).get(what)

    free(100 * GIB)
    half = counted("model.dtype=bfloat16")
    whole = counted()
    assert half is not None
    assert whole is not None
    outside = 151936 * 896  # of the embeddings, which the head shares
    assert whole - half == 2 * outside
    assert whole == pytest.approx(4 * outside + 357.8e6 * (0.5 + 1 / 64), rel=0.01)
    assert counted("model.quant=none") is None
    config = composed("study=demo", "model=hub", f"model.path={folder}")
    written = sum(need.size_bytes for need in disk.of_study(config, home, published))
    assert disk.spare_bytes(config, home, published or {}) == written + GIB
    free(written + whole + GIB)
    assert counted() == whole
    free(written + whole + GIB - 1)
    assert counted() is None  # and the launch is not refused for it
    free(100 * GIB)
    copy = copies.of(config.model, folder, home.models, {}, "float32", "cpu")
    assert copy is not None
    copy.folder.mkdir()
    (copy.folder / copies.MANIFEST).write_text(json.dumps({"key": copy.key}))
    assert counted() is None  # it is there
    (copy.folder / copies.MANIFEST).write_text(json.dumps({"key": {**copy.key, "versions": {}}}))
    assert counted() == whole
    (copy.folder / copies.MANIFEST).write_text("[]")
    assert counted() == whole
    published = {**(published or {}), "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(published))
    assert counted() is None  # too small to pay


def test_what_a_launch_would_refuse_is_foreseen(composed: Callable[..., Config], home: Home) -> None:
    config = composed("study=demo", "model=qwen2.5-0.5b")  # of the Hub, which tests do not reach
    rooms, [note] = foresee(config, home)
    assert note.startswith("a launch here would stop: model.path: 'Qwen/Qwen2.5-0.5B-Instruct' must be a folder")
    assert [need.what for need in rooms[0].needs] == ["checkpoints", "adapters that are kept", "the same in MLflow"]
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        survey(config, home)


def test_a_damaged_record_of_the_base_is_foreseen(composed: Callable[..., Config], home: Home) -> None:
    paths = home.study("demo")
    paths.create()
    paths.model.write_text("{", encoding="utf-8")
    rooms, [note] = foresee(composed("study=demo", "model=qwen2.5-0.5b"), home)
    assert note.startswith("a launch here would stop: what a study's base is must be JSON as it was written, but ")
    assert [need.what for need in rooms[0].needs] == ["checkpoints", "adapters that are kept", "the same in MLflow"]
