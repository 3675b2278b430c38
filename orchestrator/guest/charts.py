"""Catches the pictures that matplotlib shows or saves in the interpreter, without importing it before the cell does.

`Figure.savefig` to a file and `pyplot.show` are wrapped when matplotlib is imported. A picture saved as PNG, JPEG or
WebP is taken as it is; one saved as PDF or SVG is drawn again as PNG; the same figure saved and then shown counts once.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import io
import os
import sys
import weakref
from typing import Any, Callable, Dict, List, Tuple

_PICTURES_LIMIT = 8
_PICTURE_LIMIT_BYTES = 4 << 20
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}

_taken: List[Tuple[str, bytes]] = []
_saved_figures: "weakref.WeakSet[Any]" = weakref.WeakSet()


def install() -> None:
    """From now on pictures are caught."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.meta_path.insert(0, _Finder())


def take() -> List[Tuple[str, bytes]]:
    """The pictures since the last time, as (media type, bytes), in order."""
    pictures = list(_taken)
    _taken.clear()
    _saved_figures.clear()
    return pictures


def _keep(media_type: str, picture: bytes) -> None:
    if len(_taken) < _PICTURES_LIMIT and 0 < len(picture) <= _PICTURE_LIMIT_BYTES:
        _taken.append((media_type, picture))


def _wrap_figure(module: Any) -> None:
    original = module.Figure.savefig

    @functools.wraps(original)
    def savefig(self: Any, fname: Any, *arguments: Any, **options: Any) -> Any:
        result = original(self, fname, *arguments, **options)
        if isinstance(fname, (str, os.PathLike)):
            _catch_saved(self, os.fspath(fname), lambda target: original(self, target, format="png"))
        return result

    module.Figure.savefig = savefig


def _catch_saved(figure: Any, path: Any, draw: Callable[[io.BytesIO], Any]) -> None:
    name = os.fsdecode(path)
    extension = os.path.splitext(name)[1].lower()
    try:
        if extension in _TYPES or not extension:
            with open(name if extension else f"{name}.png", "rb") as file:
                _keep(_TYPES.get(extension, "image/png"), file.read(_PICTURE_LIMIT_BYTES + 1))
        else:
            target = io.BytesIO()
            draw(target)
            _keep("image/png", target.getvalue())
        _saved_figures.add(figure)
    except (OSError, ValueError):
        pass  # the file is the cell's result; the picture of it is only a courtesy


def _wrap_pyplot(module: Any) -> None:
    @functools.wraps(module.show)
    def show(*_arguments: Any, **_options: Any) -> None:
        for number in module.get_fignums():
            figure = module.figure(number)
            if figure not in _saved_figures:
                target = io.BytesIO()
                type(figure).savefig(figure, target, format="png", bbox_inches="tight")
                _keep("image/png", target.getvalue())
        module.close("all")

    module.show = show


_WRAPPERS: Dict[str, Callable[[Any], None]] = {
    "matplotlib.figure": _wrap_figure,
    "matplotlib.pyplot": _wrap_pyplot,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the two modules as ever, and wraps what they define once they are loaded."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in _WRAPPERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _WRAPPERS[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, wrap: Callable[[Any], None]) -> None:
        self._loader = loader
        self._wrap = wrap

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        self._wrap(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
