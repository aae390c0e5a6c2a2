"""The grammar of command-line overrides of lazy configs."""

import re
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

_KEY = r"[^=\s~+\[\].]+(?:\.[^=\s\[\].]+|\[[^\[\]]+\])*"
_ASSIGN = re.compile(rf"\s*\+{{0,2}}({_KEY})\s*=(.*)", re.DOTALL)
_DELETE = re.compile(rf"\s*~({_KEY})\s*(?:=.*)?", re.DOTALL)

_INT = re.compile(r"[+-]?(0|[1-9](_?\d)*)")
_DIGITS = r"\d(?:_?\d)*"
_EXPONENT = r"[eE][+-]?\d+"
_FLOAT = re.compile(
    rf"[+-]?(?:(?:{_DIGITS})?\.{_DIGITS}(?:{_EXPONENT})?|{_DIGITS}\.(?:{_EXPONENT})?|{_DIGITS}{_EXPONENT}|inf|nan)",
    re.IGNORECASE,
)
_WORDS = {"null": None, "none": None, "true": True, "false": False}


def apply_override(cfg: DictConfig | ListConfig, override: str) -> None:
    """Apply one override to a config in place; see :meth:`LazyConfig.apply_overrides`."""
    if match := _DELETE.fullmatch(override):
        _delete(cfg, match[1])
        return
    match = _ASSIGN.fullmatch(override)
    if match is None:
        raise ValueError(f"Cannot read override {override!r}: it should be 'key=value' or '~key'.")
    key, text = match.groups()
    try:
        value = _Reader(text).read_all()
    except ValueError as e:
        raise ValueError(f"Cannot read override {override!r}: {e}.") from None
    parts = _split(key)
    for i in range(1, len(parts)):
        prefix = _join(parts[:i])
        parent = OmegaConf.select(cfg, prefix, default=None)
        if parent is None:
            break
        if not OmegaConf.is_config(parent):
            raise KeyError(f"Cannot set {key!r}: {prefix!r} is not a config but {type(parent).__name__} {parent!r}.")
        if isinstance(parent, ListConfig):
            _check_index(parent, parts[i], key, prefix)
    OmegaConf.update(cfg, _join(parts), value, merge=True)


def _delete(cfg: DictConfig | ListConfig, key: str) -> None:
    *parents, leaf = _split(key)
    node = OmegaConf.select(cfg, _join(parents), default=None) if parents else cfg
    if isinstance(node, ListConfig):
        _check_index(node, leaf, key, _join(parents))
        del node[int(leaf)]
    elif isinstance(node, DictConfig) and leaf in node.keys():
        del node[leaf]
    else:
        raise KeyError(f"Cannot delete {key!r}: there is no such key.")


def _split(key: str) -> list[str]:
    return key.replace("[", ".").replace("]", "").split(".")


def _join(parts: list[str]) -> str:
    return ".".join(parts)


def _check_index(node: ListConfig, index: str, key: str, prefix: str) -> None:
    if not re.fullmatch(r"\d+", index) or int(index) >= len(node):
        raise KeyError(f"{key!r}: {prefix!r} is a list of {len(node)}, it has no item {index!r}.")


class _Reader:
    """Reads one value from left to right."""

    def __init__(self, text: str):
        self._text = text.strip()
        self._position = 0

    def read_all(self) -> Any:
        """Read the whole text; raises ValueError saying what is wrong and where."""
        if self._text.startswith(("[", "(", "{", "'", '"')):
            value = self._read_value(stops="")
            self._skip_spaces()
            if self._position < len(self._text):
                raise ValueError(f"unexpected {self._text[self._position :]!r} after the value")
            return value
        return _to_scalar(self._text)

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _skip_spaces(self) -> None:
        while self._peek().isspace():
            self._position += 1

    def _read_value(self, stops: str) -> Any:
        self._skip_spaces()
        opening = self._peek()
        if opening == "[":
            return self._read_items("]")
        if opening == "(":
            return self._read_items(")")
        if opening == "{":
            return dict(self._read_items("}"))
        if opening in ("'", '"'):
            return self._read_quoted()
        text = self._read_bare(stops)
        if not text:
            raise ValueError(f"a value is missing at position {self._position}")
        return _to_scalar(text)

    def _read_items(self, closing: str) -> list[Any]:
        start = self._position
        self._position += 1
        items = []
        while True:
            self._skip_spaces()
            if self._peek() == closing:
                self._position += 1
                return items
            items.append(self._read_pair() if closing == "}" else self._read_value("," + closing))
            self._skip_spaces()
            if self._peek() == ",":
                self._position += 1
            elif self._peek() != closing:
                raise ValueError(f"{self._text[start:]!r} lacks {closing!r} or ','")

    def _read_pair(self) -> tuple[Any, Any]:
        key = self._read_value(stops=":,}")
        self._skip_spaces()
        if self._peek() != ":":
            raise ValueError(f"':' is missing after the key {key!r}")
        self._position += 1
        return key, self._read_value(stops=",}")

    def _read_quoted(self) -> str:
        quote = self._peek()
        match = re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*){quote}", re.DOTALL).match(self._text, self._position)
        if match is None:
            raise ValueError(f"the quote in {self._text[self._position :]!r} is not closed")
        self._position = match.end()
        # A backslash only protects quotes and itself, so that Windows paths stay.
        return re.sub(rf"\\([{quote}\\])", r"\1", match[1])

    def _read_bare(self, stops: str) -> str:
        start = self._position
        depth = 0
        while self._position < len(self._text):
            char = self._peek()
            # An interpolation ${a.b} belongs to the string, with all its braces.
            if char == "{":
                depth += 1
            elif char == "}" and depth > 0:
                depth -= 1
            elif depth == 0 and char in stops:
                break
            self._position += 1
        return self._text[start : self._position].strip()


def _to_scalar(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
