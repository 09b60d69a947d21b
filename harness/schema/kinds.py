"""Open unions: configuration classes told apart by `kind`, to which plug-ins add their own."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Implementation = TypeVar("Implementation")

_added: list[str] = []


def num_added() -> int:
    """How many kinds were added so far; a validator built before the last knows not all."""
    return len(_added)


class Kinds(Generic[Implementation]):
    """The kinds of one part of a trial: `kind` -> configuration class and implementation.

    As an annotation, `Annotated[Settings, KINDS]`, it makes pydantic read a block into the class
    that its `kind` names. The set of kinds is read when a validator is built, not when the
    annotation is written, so a plug-in may add a kind at any time before a file is read.
    """

    def __init__(self, part: str, settings: type, *, default: str | None = None) -> None:
        """Kinds of a `part`, said in words; a configuration has the public members of `settings`. A
        block that names no kind has the `default`; without one, `kind` must be written."""
        self.part, self.settings, self.default = part, settings, default
        self._configs: dict[str, type] = {}
        self._implementations: dict[str, Implementation] = {}
        self._origins: dict[str, str] = {}

    def add(self, kind: str, config: type, implementation: Implementation | None = None) -> None:
        """Add a kind.

        Args:
            kind: Its name, the value of `kind` in a block.
            config: Frozen dataclass of the block, with a field `kind: Literal[<kind>]`.
            implementation: What stages know of it; absent where the class itself says all.

        Raises:
            ValueError: Another class has this name already, or the class is no such configuration.
        """
        self._require_members(kind, config)
        origin = f"{config.__module__}.{config.__qualname__}"
        if self._origins.get(kind, origin) != origin:
            raise ValueError(
                f"the {self.part} kind {kind!r} must be registered once, but {origin} registers "
                f"it after {self._origins[kind]}; give yours another name"
            )
        self._configs[kind], self._origins[kind] = config, origin
        _added.append(kind)
        if implementation is not None:
            self._implementations[kind] = implementation

    def implement(self, kind: str, implementation: Implementation) -> None:
        """Say what stages know of a kind whose configuration was added before."""
        assert kind in self._configs
        self._implementations[kind] = implementation

    def of(self, config: Any, contract: type = object) -> Implementation:
        """The implementation of a configuration's kind."""
        found = self._implementations.get(config.kind)
        if found is None or not isinstance(found, contract):
            from harness.schema.reading import ConfigError  # It makes its validators of kinds.

            came = "alone" if found is None else f"with a {type(found).__name__}"
            wanted = "" if contract is object else f", a {contract.__name__}"
            raise ConfigError(
                f"the {self.part} kind {config.kind!r} must be added with what stages know of it, "
                f"but {self._origins[config.kind]} came {came}; give `add` a third "
                f"argument{wanted}"
            )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._configs)

    def added_by(self, module: str) -> list[str]:
        """The kinds whose configurations a module or a package holds."""
        return [kind for kind, at in self._origins.items() if at.startswith(f"{module}.")]

    def config_of(self, kind: str) -> type:
        """The configuration class of a kind."""
        return self._configs[kind]

    def _require_members(self, kind: str, config: type) -> None:
        """Refuse a class that others would stumble over in the middle of a plan."""
        if not dataclasses.is_dataclass(config):
            raise ValueError(
                f"the {self.part} kind {kind!r} must be a frozen dataclass, but {config.__name__} "
                "is none; decorate it with @dataclass(frozen=True, kw_only=True)"
            )
        fields = {field.name for field in dataclasses.fields(config)}
        wanted = {name for base in self.settings.__mro__[:-1] for name in vars(base)}
        wanted |= {"kind", *getattr(self.settings, "__annotations__", {})}
        lacking = sorted(
            name
            for name in wanted
            if not name.startswith("_") and name not in fields and not hasattr(config, name)
        )
        if lacking:
            raise ValueError(
                f"the {self.part} kind {kind!r} must say {', '.join(lacking)}, but "
                f"{config.__name__} does not; see {self.settings.__module__}"
            )

    def _kind_of(self, block: Any) -> str:
        named = isinstance(block, Mapping)
        kind = block.get("kind", self.default) if named else getattr(block, "kind", self.default)
        # Not None: pydantic would then not say which kinds there are.
        return "nothing" if kind is None else str(kind)

    def __get_pydantic_core_schema__(
        self, _source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {kind: handler.generate_schema(config) for kind, config in self._configs.items()}
        return core_schema.tagged_union_schema(choices, discriminator=self._kind_of)
