"""Settings that say how a network was built: those inside a checkpoint, else those in a file beside it.

Weights do not show everything: the activation, the pooling and the stride of a stem are not in them. The programs that
write checkpoints save their settings in an entry such as ``args``, or in a file such as ``args.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ssltool.checkpoints.read import PLAIN_TYPES, SETTINGS_ENTRIES, plain
from ssltool.errors import SSLToolError, first_line
from ssltool.files.reading import decode, parse_json, read_bytes
from ssltool.files.writing import FilePath

BESIDE = ("args.yaml", "args.json", "hparams.yaml", ".hydra/config.yaml", "config.yaml", "config.json")
"""Files of settings, in the order in which they are looked for in a folder."""

LEVELS = 3
"""Folders that are searched: that of the checkpoint and those above. DINOv2 writes ``eval/training_N/`` two below."""

LARGEST = 2**18
"""Maximum size in bytes of a file of settings. PyYAML reads about 100 kB per second."""

MOST = 10_000
"""Maximum number of settings."""

OF_OTHERS = {
    *("projector", "projection", "projection_head", "proj", "predictor", "decoder", "head", "classifier"),
    *("online_classifier", "probe", "text", "text_model", "text_encoder", "text_config"),
}
"""Names of modules beside the backbone, whose settings are not its own."""

T = TypeVar("T")


@dataclass(frozen=True)
class SideSettings:
    """Settings of the program that wrote a checkpoint.

    Attributes:
        values: the settings as plain values, by their names; nested names are joined by dots.
        source: where they come from, such as ``args`` or the path of a file; empty if there are none.
        notes: one line for each file of settings that could not be read.
    """

    values: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()

    def find(self, kind: type[T], *names: str) -> T | None:
        """The value of type ``kind`` of the first of ``names`` that has one.

        A name stands for itself and for the end of a longer name, at a dot, but not for a setting of ``OF_OTHERS``. The
        least nested is taken; if several are, with different values, the name has none.
        """
        for name in names:
            found: dict[int, list[T]] = {}
            for key, value in self.values.items():
                above = key.removesuffix(name)
                fits = key == name or (above != key and above.endswith("."))
                if type(value) is kind and fits and not OF_OTHERS & {*above.split(".")}:
                    found.setdefault(key.count("."), []).append(value)
            if found:
                least = found[min(found)]
                if all(value == least[0] for value in least):
                    return least[0]
        return None

    @property
    def arch(self) -> str | None:
        """The name of the architecture, as the program spells it."""
        names = ("arch", "architecture", "model_name", "backbone.name", "encoder.name", "model.name")
        return self.find(str, *names, "model", "backbone", "encoder")

    @property
    def image_size(self) -> int | None:
        """The side of the input in pixels."""
        return self._side("img_size", "image_size", "input_size", "global_crops_size", "crop_size")

    @property
    def patch_size(self) -> int | None:
        """The side of the patches in pixels."""
        return self._side("patch_size")

    @property
    def heads(self) -> int | None:
        """The number of attention heads."""
        return self._number("num_heads", "num_attention_heads", "n_heads", "heads")

    @property
    def act_layer(self) -> str | None:
        """The activation, in lower case and without its module: ``silu``."""
        name = self.find(str, "act_layer", "hidden_act", "activation")
        return name.strip("<>").rpartition(".")[2].lower() if name else None

    @property
    def global_pool(self) -> str | bool | None:
        """timm's name of the pooling, or MAE's switch for the mean over patches."""
        name = self.find(str, "global_pool", "gp")
        return self.find(bool, "global_pool") if name is None else name

    @property
    def of_mae(self) -> bool:
        """Whether they are those of MAE's training."""
        return self.find(bool, "norm_pix_loss") is not None and self.find(float, "mask_ratio") is not None

    @property
    def output_stride(self) -> int | None:
        """The ratio of the sides of the input and the last feature map."""
        return self._number("output_stride")

    @property
    def stem(self) -> str | None:
        """The name of the stem."""
        return self.find(str, "stem", "stem_type")

    @property
    def cifar(self) -> bool | None:
        """Whether the network is the variant for images of 32 pixels: by a switch, or by the name of the dataset."""
        switch = self.find(bool, "cifar", "cifar_stem", "small_stem")
        if switch is not None:
            return switch
        dataset = self.find(str, "data.dataset", "dataset", "dataset_name", "data.name")
        return None if dataset is None else dataset.lower().startswith("cifar")

    def _number(self, *names: str) -> int | None:
        for name in names:
            number = self.find(int, name)
            text = self.find(str, name)
            if number is None and text is not None and text.isascii() and text.isdecimal() and len(text) < 10:
                number = int(text)
            if number is not None:
                return number
        return None

    def _side(self, *names: str) -> int | None:
        """A number, or the last of a list of sizes whose last two are equal."""
        for name in names:
            number, sizes = self._number(name), self.find(list, name)
            if number is None and sizes and type(sizes[-1]) is int and sizes[-2:] in ([sizes[-1]] * 2, [sizes[-1]]):
                number = sizes[-1]
            if number is not None:
                return number
        return None


def side_settings(path: FilePath, entries: Mapping[str, Any]) -> SideSettings:
    """The settings of the program that wrote the checkpoint ``path``, with these top-level ``entries``.

    They are those in ``entries``. If it holds none, they are those of the nearest folder, that of ``path`` or one
    of two above, that has a file of settings. Text and numbers among ``entries``, such as ``arch``, are always
    included. Nothing is executed. A file that cannot be read is a note.
    """
    own = {key: value for key, value in entries.items() if isinstance(key, str) and isinstance(value, PLAIN_TYPES)}
    for key in SETTINGS_ENTRIES:
        values = _flat(plain(entries.get(key)))
        if values:
            return SideSettings(_flat(plain(own)) | values, key)
    notes: list[str] = []
    for file in _files(Path(path)):
        try:
            values = _flat(plain(_read(file)))
        except SSLToolError as error:
            notes.append(str(error))
            continue
        if values:
            return SideSettings(values | _flat(plain(own)), str(file), tuple(notes))
    return SideSettings(_flat(plain(own)), "its entries" if own else "", tuple(notes))


def _files(path: Path) -> Iterator[Path]:
    for folder in list(path.absolute().parents)[:LEVELS]:
        yield from (folder / name for name in BESIDE if _is_file(folder / name))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its folder may not be read
        return False


def _read(path: Path) -> Any:
    """The value in a file of settings; raises ``SSLToolError`` if it cannot be read."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SSLToolError(f"cannot read {path}: {first_line(error)}") from error
    if size > LARGEST:
        raise SSLToolError(f"{path} was not read: it has {size:,} bytes, more than settings have ({LARGEST:,})")
    text = decode(read_bytes(path), path)
    try:
        return parse_json(text) if path.suffix == ".json" else _parse_yaml(text)
    except ValueError as error:
        raise SSLToolError(f"{path} was not read: {first_line(error)}") from error


def _parse_yaml(text: str) -> Any:
    """The value of YAML ``text``; objects with a tag become the dicts, lists and texts that they are written as.

    Raises:
        ValueError: if it is not YAML, or PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise ValueError("it needs PyYAML: pip install 'ssltool[yaml]'") from error

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: Any) -> None:
            """Merged mappings stay nested: copies of copies could need any amount of memory."""

    def written(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node) or suffix.rpartition(":")[2]  # ``!!python/name:torch.nn.SiLU ''``

    Loader.add_multi_constructor("", written)
    try:
        return yaml.load(text, Loader)
    except Exception as error:  # values that contradict their tags raise anything
        raise ValueError(f"it is no readable YAML ({first_line(error)})") from error


def _flat(settings: Any) -> dict[str, Any]:
    """Nested dicts as one, with the names joined by dots; at most ``MOST`` settings."""
    values: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if len(values) < MOST:
                    walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif prefix:
            values[prefix] = value

    walk("", settings)
    return values
