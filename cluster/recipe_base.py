"""What every recipe has: names, data, what it takes, where it is tracked and stored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    field_validator,
    model_validator,
)

from cluster.files import AnyPath, path_of
from cluster.secrets import holds_secret, redacted
from networks.architecture import digest_of
from networks.errors import UserError
from trainers.data import DataSettings, check_settings

ALL_RUNS_LIMIT = 2000

HomePath = Annotated[Path, AfterValidator(Path.expanduser)]  # ~ is the user's home
# A folder, or s3://BUCKET/PREFIX; written in JSON and YAML as the user writes it.
PathField = Annotated[
    AnyPath,
    PlainValidator(lambda value: path_of(str(value)), json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resources(Section):
    """What one candidate or replica takes, and how many run at once (`workers`; None: as many as fit).

    In a grid `workers` sizes a Ray that weft starts on this machine; on a cluster that is there already,
    what runs at once follows from what a candidate takes. In a search it is the number of replicas; up to
    `max_workers` of them come and go as the cluster has room (`workers` is 1 then, if it is not given).
    """

    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)
    workers: int | None = Field(None, ge=1)
    max_workers: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_workers is not None and self.max_workers < (self.workers or 1):
            raise UserError("max_workers", self.max_workers, f"at least workers ({self.workers})")
        return self

    @property
    def elastic(self) -> int:
        """How many replicas may come and go."""
        return 0 if self.max_workers is None else self.max_workers - (self.workers or 1)


class Tracking(Section):
    """`uri`: an MLflow tracking URI; None is that of MLFLOW_TRACKING_URI, or else a SQLite file in the run's
    folder. `runs`: a child run for every candidate, or for the frontier alone (above 2,000 candidates the
    choice must be made)."""

    uri: str | None = None
    runs: Literal["all", "frontier"] | None = None

    @field_validator("uri")
    @classmethod
    def _public(cls, uri: str | None) -> str | None:
        if uri is not None and holds_secret(uri):
            fix = (
                "Give the whole address as MLFLOW_TRACKING_URI, or the password as MLFLOW_TRACKING_PASSWORD."
            )
            allowed = "an address without a password: a run's folder keeps its recipe"
            raise UserError("", redacted(uri), allowed, fix)
        return uri

    def check_runs(self, candidates: int) -> None:
        """Raise `UserError` where the choice of `runs` must be made and was not."""
        if candidates > ALL_RUNS_LIMIT and self.runs is None:
            raise UserError(
                "tracking.runs", None, f"all or frontier, for more than {ALL_RUNS_LIMIT} candidates",
                f"This search has up to {candidates}.",
            )  # fmt: skip


class BaseRecipe(Section):
    """`retries`: how often what died with its process is tried again. `allow_mixed`: let CPUs, GPUs or torch
    builds differ between processes, whose last bits then may too."""

    # What decides no result: where data lies, where it runs and what is kept where.
    PLACES: ClassVar[Mapping[str, Any]] = {
        "data": {"path", "test_path", "workers"},
        **dict.fromkeys(("resources", "retries", "allow_mixed", "tracking", "storage"), True),
    }

    version: Literal[1]
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        max_length=80,
        description="up to 80 letters, digits and _ . -, the first a letter or digit",
    )
    seed: int = 0
    data: DataSettings = DataSettings()
    resources: Resources = Resources()
    retries: int = Field(3, ge=0)
    allow_mixed: bool = False
    tracking: Tracking = Tracking()
    storage: PathField = Path("runs")

    @field_validator("data")
    @classmethod
    def _usable(cls, data: DataSettings) -> DataSettings:
        check_settings(data)
        return data

    @property
    def digest(self) -> str:
        """Of what decides the results: not of where it runs, is stored or tracked, nor of where data lies."""
        return digest_of(self.model_dump(mode="json", exclude=dict(self.PLACES)))

    @property
    def identity(self) -> str:
        """What the search is called in the ids of its candidates."""
        return f"{self.name}/{self.seed}"
