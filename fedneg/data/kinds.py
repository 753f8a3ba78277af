"""What images of a data set look like: known without any file of it."""

from dataclasses import dataclass

from fedneg.core.data_settings import NUM_CLASSES
from fedneg.core.errors import FedNegError


@dataclass(frozen=True)
class Scaling:
    """How uint8 pixels become the model's input: (pixel - mean) / std, in raw units."""

    mean: float
    std: float


@dataclass(frozen=True)
class ImageKind:
    """What images of a name look like: also to real clients, who have no file of them.

    ``shape`` is (height, width); pixels are 0..``pixel_max``, labels
    0..``num_classes`` - 1.
    """

    name: str
    shape: tuple[int, int]
    pixel_max: int
    scaling: Scaling
    num_classes: int = NUM_CLASSES


# torchvision's usual 0.1307 and 0.3081 of the full range, and the same of the digits'
# training writers. The paper does not say how it scales.
MNIST = ImageKind("mnist", (28, 28), 255, Scaling(mean=0.1307 * 255, std=0.3081 * 255))
DIGITS = ImageKind("digits", (8, 8), 16, Scaling(mean=4.89, std=6.01))


def image_kind(name: str) -> ImageKind:
    """Return what the images of ``"mnist"`` or ``"digits"`` look like.

    Raises
    ------
    FedNegError
        If the name is another one.
    """
    for kind in (MNIST, DIGITS):
        if kind.name == name:
            return kind
    raise FedNegError(f"data must be one of mnist and digits, got {name}")
