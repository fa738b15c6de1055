"""What is checked of a data file before anything is trained: from shapes and ids alone, without reading features."""

from __future__ import annotations

from collections.abc import Sequence

from mmsa_core.config import MODALITIES
from mmsa_core.data.source import KEYS, LABELS, SPLITS, TEXT_BERT, Source
from mmsa_core.errors import UserError, nearest


def choose_modalities(source: Source, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the modalities to read in canonical order: the wanted ones, or all that the training split has.

    Raises:
        UserError: none, or one that the file does not have.
    """
    present = [m for m in MODALITIES if f"{SPLITS[0]}/{m}" in source.keys]
    if not present:
        fix = "; or name a text_model, which makes text of raw_text" if f"{SPLITS[0]}/raw_text" in source.keys else ""
        raise UserError(
            f"{source.place}: train has no features; it needs the key train/text, train/audio or train/vision{fix}"
        )
    if wanted is None:
        return tuple(present)
    if not wanted:
        raise UserError(f"{source.place}: the list of modalities is empty; name at least one of {', '.join(present)}")
    for modality in wanted:
        if modality not in present:
            raise UserError(f"{source.place}: has no modality {modality!r}{nearest(modality, present)}")
    return tuple(m for m in present if m in wanted)


def used_keys(source: Source, split: str, modalities: Sequence[str]) -> list[str]:
    """Return the keys of a split that are read when ``modalities`` are chosen."""
    unused = {m for m in MODALITIES if m not in modalities}
    names = [n for n in KEYS if n.removesuffix("_lengths").removesuffix("_bert") not in unused]
    return [f"{split}/{n}" for n in names if f"{split}/{n}" in source.keys]


def check_structure(source: Source, modalities: Sequence[str]) -> None:
    """Check that every split is there and whole, that shapes agree, and that no id occurs twice.

    Raises:
        UserError: naming the array, what it is and what it should be.
    """
    for split in SPLITS:
        _check_keys(source, split, modalities)
        _check_shapes(source, split, modalities)
    _check_widths(source, modalities)
    _check_ids(source)


def _check_keys(source: Source, split: str, modalities: Sequence[str]) -> None:
    own = {k.removeprefix(f"{split}/") for k in source.keys if k.startswith(f"{split}/")}
    if not own:
        raise UserError(f"{source.place}: the split {split!r} is missing; a data set needs train, valid and test")
    for name in (LABELS, "id", *modalities):
        if name not in own:
            raise UserError(f"{source.place}: {split}/{name} is missing; every split needs it{nearest(name, own)}")


def _check_shapes(source: Source, split: str, modalities: Sequence[str]) -> None:
    labels = f"{split}/{LABELS}"
    check_axes(source, labels, LABELS)
    samples = source.shape(labels)
    if samples == (0,):
        raise UserError(f"{source.place}: {split} is empty; every split needs at least one sample")
    for key in used_keys(source, split, modalities):
        shape = source.shape(key)
        check_axes(source, key, key.split("/")[1])
        if shape[:1] != samples:
            raise UserError(
                f"{source.place}: {key} has {shape[0]} rows but {labels} has {samples[0]}; "
                "every array of a split needs one row per sample"
            )


def check_axes(source: Source, key: str, name: str) -> None:
    """Check that an array has the axes of what its ``name`` says it is.

    Raises:
        UserError: it has not, or one of them is empty.
    """
    shape = source.shape(key)
    rule = "[samples, time, dim] or [samples, dim]" if name in MODALITIES else "[samples]"
    fits = len(shape) in ((2, 3) if name in MODALITIES else (1,))
    if name == TEXT_BERT:
        rule, fits = "[samples, 3, time]", len(shape) == 3 and shape[1] == 3
    if not fits or 0 in shape[1:]:
        raise UserError(f"{source.place}: {key} has shape {list(shape)}; it must be {rule} without an empty axis")


def _check_widths(source: Source, modalities: Sequence[str]) -> None:
    for modality in modalities:
        width = source.shape(f"train/{modality}")[-1]
        for split in SPLITS[1:]:
            other = source.shape(f"{split}/{modality}")[-1]
            if other != width:
                raise UserError(
                    f"{source.place}: {split}/{modality} has width {other} but train/{modality} has {width}; "
                    "extract all splits with the same features"
                )


def _check_ids(source: Source) -> None:
    home: dict[str, str] = {}
    for split in SPLITS:
        for sample in source.read(f"{split}/id").tolist():
            name = str(sample)
            if name in home:
                where = f"twice in {split}" if home[name] == split else f"in {home[name]} and in {split}"
                raise UserError(f"{source.place}: the id {name!r} occurs {where}; ids must be unique")
            home[name] = split
