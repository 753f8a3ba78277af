"""Import torchvision's data sets, also beside a CPU build of torch.

The registry's torchvision wheels are CUDA builds. Beside a CPU torch their extension
does not load, and ``import torchvision`` fails because the operators that the extension
would define are missing. Declaring them makes the import work; data sets and transforms
never call them.
"""

import importlib
from types import ModuleType
from typing import Any

import torch

# torch forgets a library's operators when the Library object is collected.
_library: Any = None


def datasets() -> ModuleType:
    """Return the module ``torchvision.datasets``.

    Raises
    ------
    ImportError
        If torchvision is absent, or does not load beside this torch even with its
        operators declared.
    """
    global _library
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if "does not exist" not in str(error) or _library is not None:
            raise ImportError(f"torchvision does not load: {error}") from error
    library: Any = torch.library.Library  # torch leaves it without types
    _library = library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        _library.define(
            f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    return datasets()
