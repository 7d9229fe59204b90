"""The kinds of values that params take, with their bounds, and what all sections share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read true as 1
        raise ValueError("a bool is no number")
    return value


NotBool = BeforeValidator(_no_bool)  # last in Annotated, so that the bounds stay in the JSON schema
Count = Annotated[int, Field(ge=1), NotBool]
CountOrZero = Annotated[int, Field(ge=0), NotBool]
Seed = Annotated[int, Field(ge=0, lt=2**32), NotBool]
Number = Annotated[float, Field(allow_inf_nan=False), NotBool]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NotBool]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False), NotBool]
Share = Annotated[float, Field(ge=0, le=1), NotBool]
PositiveShare = Annotated[float, Field(gt=0, le=1), NotBool]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1), NotBool]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]
Precision = Annotated[  # a bare no is false in YAML
    Literal["no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)
]
Device = Literal["auto", "cpu", "cuda", "mps", "meta"]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$",
        description="a folder name of letters, digits, '.', '_' and '-'",
    ),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
