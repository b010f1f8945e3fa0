"""What a recipe says, as frozen values: the data, and members made unlike. Reads YAML; trains nothing."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError, ValidationInfo, field_validator, model_validator

from ensembles import plain_yaml
from ensembles.frozen import Frozen
from ensembles.member_spec import Name
from ensembles.spec import first_fault
from ensembles.wording import shown

Architecture = Literal["linear", "mlp", "convnet", "vgg", "resnet", "mobilenet"]
Augmentation = Literal["flip", "crop", "colour", "cutout"]
Schedule = Literal["one_cycle", "cosine", "constant"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Width = Annotated[int, Field(ge=1, le=1024)]
Depth = Annotated[int, Field(ge=1, le=16)]
Size = Annotated[int, Field(ge=1, le=1024)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=2, le=65_536)]
LearningRate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Smoothing = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]

Value = TypeVar("Value")
Choices = Annotated[tuple[Value, ...], Field(min_length=1, max_length=100)]

MAX_CHANNELS = 8192

MAX_RECIPE_BYTES = 1 << 20
BUILT_IN = Path(__file__).with_name("recipes")


class RecipeError(ValueError):
    """The recipe is not one. One line: the file, the key, what was found, what was expected."""


class MemberRecipe(Frozen):
    """How one member is trained. What differs between members is what makes their errors differ.

    `size`: the pixels a side that it sees (None: all); `grey`: it sees no colour; `bagging`: it learns from a sample with
    replacement of this share of the training rows; `learning_rate`: the highest of the schedule, at SGD with momentum 0.9.
    """

    name: Name
    architecture: Architecture
    width: Width = 16
    depth: Depth = 1
    size: Size | None = None
    grey: bool = False
    seed: Seed = 0
    epochs: Epochs = 10
    batch_size: BatchSize = 128
    learning_rate: LearningRate = 0.1
    schedule: Schedule = "one_cycle"
    weight_decay: Decay = 5e-4
    label_smoothing: Smoothing = 0.0
    augment: tuple[Augmentation, ...] = ("flip", "crop")
    bagging: Share | None = None

    @field_validator("augment", mode="before")
    @classmethod
    def _sequence(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _affordable(self) -> "MemberRecipe":
        _refuse_too_wide(self.architecture, self.width, self.depth)
        return self


def _refuse_too_wide(architecture: Architecture, width: int, depth: int) -> None:
    widest = width * 2 ** (depth - 1 if architecture in ("convnet", "vgg") else 3)
    if widest > MAX_CHANNELS:
        raise ValueError(
            f"found {widest} channels in the last stage, expected at most {MAX_CHANNELS} (less width or depth)"
        )


class SearchSpace(Frozen):
    """What the members of a search are drawn from: each gets one of the values that stand at each of its keys.

    `learning_rate`: the lowest and the highest, drawn evenly by order of magnitude. `seed`: of the drawing.
    """

    seed: Seed = 0
    architecture: Choices[Architecture]
    width: Choices[Width] = (16,)
    depth: Choices[Depth] = (1,)
    size: Choices[Size | None] = (None,)
    grey: Choices[bool] = (False,)
    epochs: Choices[Epochs] = (10,)
    batch_size: Choices[BatchSize] = (128,)
    learning_rate: tuple[LearningRate, LearningRate] = (0.1, 0.1)
    schedule: Choices[Schedule] = ("one_cycle",)
    weight_decay: Choices[Decay] = (5e-4,)
    label_smoothing: Choices[Smoothing] = (0.0,)
    augment: Choices[tuple[Augmentation, ...]] = (("flip", "crop"),)
    bagging: Choices[Share | None] = (None,)

    @field_validator("*", mode="before")
    @classmethod
    def _sequence(cls, value: object) -> object:
        return tuple(cls._sequence(each) for each in value) if isinstance(value, list) else value

    @field_validator("*")
    @classmethod
    def _distinct(cls, values: object, info: ValidationInfo) -> object:
        if isinstance(values, tuple) and info.field_name != "learning_rate":
            twice = next((value for place, value in enumerate(values) if value in values[:place]), _NOTHING)
            if twice is not _NOTHING:
                raise ValueError(f"found {twice!r} twice, expected distinct values")
        return values

    @model_validator(mode="after")
    def _affordable(self) -> "SearchSpace":
        low, high = self.learning_rate
        if low > high:
            raise ValueError(f"learning_rate: found {low:g} to {high:g}, expected the lowest first")
        for shape in product(self.architecture, self.width, self.depth):
            _refuse_too_wide(*shape)
        return self


_NOTHING = object()


class CalibrationRows(Frozen):
    """Rows held out from training, by a seed: members are compared on them, and ensembles selected."""

    rows: Annotated[int, Field(ge=1, le=10**7)]
    seed: Seed = 0


class Recipe(Frozen):
    """Members to train on one folder of class folders of images (or a zip of it; `photos.zip#train` is a folder inside).

    `image_size`: pixels a side of the square RGB image that the served model is sent. `search`: what other members may be
    drawn from.
    """

    name: Name
    data: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    image_size: Annotated[int, Field(ge=1, le=1024)]
    calibration: CalibrationRows
    members: tuple[MemberRecipe, ...] = ()
    search: SearchSpace | None = None

    @field_validator("members", mode="before")
    @classmethod
    def _sequence(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        names = self.member_names
        if not names and self.search is None:
            raise ValueError("members: found none, expected at least 1")
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise ValueError(f"members: found {twice!r} twice, expected distinct names")
        for member in self.members:
            self._refuse_odd(member.size, f"members.{member.name}.size")
        for size in self.search.size if self.search else ():
            self._refuse_odd(size, "search.size")
        return self

    def _refuse_odd(self, size: int | None, key: str) -> None:
        if size is not None and self.image_size % size:
            raise ValueError(f"{key}: found {size}, expected a divisor of image_size, {self.image_size}")

    @property
    def member_names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    def only(self, names: tuple[str, ...]) -> "Recipe":
        """With these members alone, or with all when none is named. Raises RecipeError when there is no such member."""
        unknown = next((name for name in names if name not in self.member_names), None)
        if unknown is not None:
            raise RecipeError(
                f"found no member {unknown!r} in {self.name}, expected one of {', '.join(self.member_names)}"
            )
        if not self.members:
            raise RecipeError(
                f"{self.name}: members: found none, expected at least 1 (`ensembles search` draws its own)"
            )
        kept = tuple(member for member in self.members if not names or member.name in names)
        return self.model_copy(update={"members": kept})


def built_in() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(sorted(file.stem for file in BUILT_IN.glob("*.yaml")))


def read(recipe: str) -> Recipe:
    """The built-in recipe of that name, or the one in that YAML file. Raises RecipeError."""
    path = BUILT_IN / f"{recipe}.yaml" if recipe in built_in() else Path(recipe)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_RECIPE_BYTES + 1)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or "no path"
        known = ", ".join(("digits", *built_in()))
        raise RecipeError(f"{shown(recipe)}: found {found}, expected a YAML file or one of {known}") from None
    try:
        return parse(content)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def parse(content: bytes) -> Recipe:
    """A recipe from the bytes of its YAML. Raises RecipeError."""
    return from_mapping(mapping(content))


def mapping(content: bytes) -> dict[str, Any]:
    """The mapping that plain YAML holds. Raises RecipeError."""
    if len(content) > MAX_RECIPE_BYTES:
        raise RecipeError(f"found more than {MAX_RECIPE_BYTES} bytes, expected a recipe")
    try:
        return plain_yaml.mapping(content.decode(), "a recipe")
    except UnicodeDecodeError:
        raise RecipeError("expected UTF-8 text") from None
    except plain_yaml.NotPlainError as error:
        raise RecipeError(str(error)) from None


def from_mapping(content: Mapping[str, Any]) -> Recipe:
    """The same from a mapping. Raises RecipeError."""
    try:
        return Recipe.model_validate(dict(content))
    except ValidationError as error:
        raise RecipeError(first_fault(error)) from None
