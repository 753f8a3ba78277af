"""Where tensors live: the device that trains, and images on it as bytes."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedneg.data.kinds import Scaling

# Arrays that are on a device, whole: a process has a data set or two.
KEPT = 4


def choose_device(name: str) -> torch.device:
    """Return the device for 'auto', 'cpu' or 'cuda'; auto takes CUDA if it is there.

    On CUDA convolutions are told to be deterministic from then on: else the gradients
    of two processes differ in their last bits, and so would the bytes of two engines.

    Raises
    ------
    RuntimeError
        If CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RuntimeError("device=cuda was asked for, but torch sees no CUDA device")
    if not available or name == "cpu":
        return torch.device("cpu")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda")


def as_input(images: torch.Tensor, scaling: Scaling | None) -> torch.Tensor:
    """Return uint8 images (N, ...) as scaled float32 rows (N, pixels).

    Without a scaling they are input already.
    """
    if scaling is None:
        return images
    pixels = images.flatten(1).to(torch.float32)
    return pixels.sub_(scaling.mean).div_(scaling.std)


def own_tensor(values: NDArray[Any] | torch.Tensor) -> torch.Tensor:
    """Return a tensor as it is, and a copy of an array.

    A copy, because torch takes no read-only array, and a data set's are.
    """
    if isinstance(values, torch.Tensor):
        return values
    return torch.from_numpy(values.copy())


class DeviceArrays:
    """Whole arrays on a device: an epoch over some of their rows crosses no bus.

    An array is handed over the first time that rows of it are asked for, and must not
    change from then on. The last `most` arrays are kept.
    """

    def __init__(self, device: torch.device, most: int = KEPT) -> None:
        self.device, self.most = device, most
        # By identity, which is safe while the array itself is held too.
        self._held: dict[int, tuple[NDArray[Any], torch.Tensor]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def rows(self, array: NDArray[Any], index: NDArray[np.integer]) -> torch.Tensor:
        """Return these rows of the array, a new tensor on the device."""
        held = self._held.pop(id(array), None)
        if held is None:
            held = array, torch.tensor(array, device=self.device)
        self._held[id(array)] = held  # the latest
        while len(self._held) > self.most:
            del self._held[next(iter(self._held))]
        return held[1][torch.from_numpy(index).to(self.device)]


_arrays_on = cache(DeviceArrays)


def rows_on(
    array: NDArray[Any], index: NDArray[np.integer], device: torch.device
) -> torch.Tensor:
    """Return rows of a data set's array as a new tensor on a device.

    Another device than the CPU keeps the whole array (`DeviceArrays`).
    """
    if device.type == "cpu":
        return torch.from_numpy(array[index])
    return _arrays_on(device).rows(array, index)
