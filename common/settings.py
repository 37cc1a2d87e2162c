"""Everything that can be set, section by section, typed; `common.config` reads it from files and flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from common.budget import Budget

Strategy = Literal[
    "fedavg", "fedprox", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg", "krum", "multikrum"
]
Codec = Literal["none", "float16", "int8", "sign", "topk", "topk_int8", "ternary", "lowrank", "auto"]
Activation = Literal["relu", "tanh", "sigmoid", "elu", "linear"]
PositiveInt = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
FilePath = Annotated[Path, Field(strict=False)]
Port = Annotated[int, Field(ge=1, le=65535)]
CLIENT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}$"
Names = Annotated[tuple[str, ...], Field(strict=False)]


REMOVED_SETTINGS = {
    "scoring.combine": "remove it: a client always mixes the weights of the fleet's network and of its own",
}
"""Settings that no longer exist, and what to do about each.

A key is `section.name` for a setting, or `section.name: value` for one of a setting's former values.
"""


class Section(BaseModel):
    """One part of the settings: immutable, strictly typed, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSettings(Section):
    """The autoencoder: the last `window` events, flattened, through `hidden` widths and back."""

    window: PositiveInt = 10
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (64, 16, 64)
    activation: Activation = "relu"
    output_activation: Activation = "linear"


class TrainingSettings(Section):
    """How one client trains between two messages."""

    optimizer: Literal["adam", "sgd", "rmsprop", "adamw"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.001
    loss: Literal["mse", "mae", "huber"] = "mse"
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 128
    proximal_mu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Weight of `mu / 2 * |w - w_given|^2` in the loss, which keeps a client near the version it was given.

    Source: Li et al. 2020 (FedProx).
    """
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training rows, the last ones, that measures the error and is never trained on.

    0: all rows are trained on, and the error is measured on them.
    """
    seed: Annotated[int, Field(ge=0)] = 0
    frozen: Annotated[int, Field(ge=0)] = 0
    """The first so many layers keep the weights that version 0 has, as of a model of another fleet."""


class ScalingSettings(Section):
    """How inputs are scaled: by moments of the whole fleet, of each client alone, or not at all."""

    by: Literal["shared", "fleet", "client", "none"] = "shared"
    """shared: each client's own mean, and the spread that rows have about their client's mean in the fleet,
    in proportion for a client of another size altogether.
    fleet: mean and spread of all rows together. client: each client's own.
    """
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 10.0
    """Largest scaled magnitude, in standard deviations; larger ones are cut off. None: no limit."""

    @model_validator(mode="before")
    @classmethod
    def _no_scale_no_clip(cls, values: Any) -> Any:
        return {"clip": None, **values} if isinstance(values, dict) and values.get("by") == "none" else values

    @model_validator(mode="after")
    def _clip_needs_a_scale(self) -> Self:
        if self.by == "none" and self.clip is not None:
            raise ValueError(
                "'clip' counts standard deviations, so it needs 'by' to be shared, fleet or client"
            )
        return self


class ScoringSettings(Section):
    """What a client makes of a version before it scores its own stream by it (decision 16)."""

    normalise: bool = True
    """Whether each input's squared error is divided by its usual size on normal rows: an input that is hard
    to reconstruct does not drown the others.
    """
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """What an event's errors weigh in a window, of what the next event's do: the newest is the one that is
    scored. 1: all weigh alike.
    """
    personal_epochs: Annotated[int, Field(ge=0)] = 5
    """Passes over its own rows in which a client tunes a version for itself. 0: it takes it as it is."""
    prior: PositiveInt = 1000
    """Windows of its own with which a client trusts them as much as the fleet: of `n`, it takes `n / (n +
    prior)` of what it learned from its own rows, and the rest from the fleet.
    """


class FederationSettings(Section):
    """Who trains when, what is made of late work, and when the run ends."""

    mode: Literal["synchronous", "asynchronous"] = "synchronous"
    """synchronous: rounds that wait for all, or for a quorum. asynchronous: no client waits for another."""
    strategy: Strategy = "fedavg"
    """Which of Flower's strategies makes one version of many updates; `aggregation` has its parameters."""
    max_rounds: PositiveInt = 200
    """The run ends after this many versions at the latest."""
    start_from: FilePath | None = None
    """A version of another fleet, whose weights version 0 has for the features that both fleets have."""
    start_names: Annotated[dict[str, str], Field(strict=False)] = {}
    """What that fleet calls a feature, by what it is called here; others have the same name in both."""
    fraction: Fraction = 1.0
    """Synchronous: share of the connected clients that a round samples."""
    min_clients: PositiveInt = 2
    """A round starts when this many are connected, and samples at least this many.

    Asynchronous: only the first version waits for so many.
    """
    quorum: Fraction = 0.5
    """Share of the sampled clients whose replies are enough once the deadline has passed.

    Asynchronous: share of the connected clients that the first version is made of.
    """
    deadline_s: Seconds = 60.0
    """After this long a round closes if its quorum has answered; with all replies it closes at once.

    Asynchronous: the longest that a client's task counts as at work; less once its own times are known.
    """
    buffer: PositiveInt = 4
    """Asynchronous: how many updates make a version. 1: each does (FedAsync)."""
    in_flight: PositiveInt | None = None
    """Asynchronous: most clients that work at a time. None: all."""
    staleness_limit: Annotated[int, Field(ge=0)] = 20
    """An update from a version that is more than so many behind the newest is dropped."""
    staleness: Literal["polynomial", "constant", "hinge"] = "polynomial"
    """How an update counts that is `s` versions behind.

    polynomial: `(1 + s) ** -power`; constant: 1; hinge: 1 up to `free`, then `1 / (1 + power * (s - free))`.
    """
    staleness_power: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    staleness_free: Annotated[int, Field(ge=0)] = 4
    wait_s: Seconds = 600.0
    """The longest the server waits, for clients or for a quorum, before it ends the run and says why."""
    interval_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """At least so long from one version to the next, where a fleet learns for ever. 0: as fast as it can."""
    patience: Annotated[int, Field(ge=0)] = 10
    """Stop after this many rounds without improvement. 0: only `max_rounds` ends the run.

    Asynchronous: as many updates as there are clients are a round.
    """
    min_improvement: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Relative fall of the weighted reconstruction error, below the best before, that is an improvement."""


class CompressionSettings(Section):
    """How differences of weights travel: `up` to the server, `down` to clients (`docs/compression.md`)."""

    up: Codec = "int8"
    """Of updates: by default what loses nothing that can be measured. auto: by the model's size and each
    client's measured link."""
    up_share: Fraction = 0.08
    """topk, topk_int8, ternary: share of the values that an update keeps; the rest waits for the next one."""
    up_rank: Annotated[int, Field(ge=1, le=4)] = 2
    """lowrank: directions of each matrix that an update keeps."""
    down: Codec = "none"
    """Of new versions, to clients that hold an earlier one. none: whole versions."""
    down_share: Fraction = 0.2
    """As `up_share`, for new versions."""
    down_rank: Annotated[int, Field(ge=1, le=4)] = 4
    """As `up_rank`, for new versions."""
    zstd: bool = True
    """Whether what a codec makes is squeezed once more, without loss."""


class AggregationSettings(Section):
    """Parameters of the strategies; each counts for those that are named with it."""

    server_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """fedadam, fedyogi: step size of the server's optimiser. Source: Reddi et al. 2021."""
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """fedadam, fedyogi: decay of the mean of the updates."""
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """fedadam, fedyogi: decay of the mean of their squares."""
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.001
    """fedadam, fedyogi: keeps their steps finite where updates are tiny."""
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.25
    """fedtrimmedavg: share cut off at either end of each weight. Source: Yin et al. 2018."""
    malicious: Annotated[int, Field(ge=0)] = 1
    """krum, multikrum: how many clients may lie. Source: Blanchard et al. 2017."""
    select: PositiveInt = 4
    """multikrum: how many of the updates that lie closest together are averaged."""


class GateSettings(Section):
    """Which updates are refused, beyond those that are broken."""

    norm_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 3.0
    """Largest norm of an update, in robust standard deviations of the logarithm above the fleet's median.

    None: no limit. Counts once four clients are known.
    """
    norm_action: Literal["refuse", "clip"] = "clip"
    """clip: a larger update is scaled down to the limit. refuse: it is not used."""


class ThresholdSettings(Section):
    """Above which score an event is an anomaly: what an alert budget allows, a quantile, or a value."""

    budget: str = "1 per day"
    """Of a live stream: how many false alerts may come, per hour, day or week."""
    interval_s: Seconds | None = None
    """From one event to the next. None: as measured."""
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.995
    """Of held-out normal scores, where rows of a file are judged."""
    value: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """A fixed threshold in units of the score; replaces budget and quantile."""

    @field_validator("budget")
    @classmethod
    def _is_a_budget(cls, text: str) -> str:
        Budget.parse(text)
        return text


class LiveSettings(Section):
    """A machine that scores its own stream: where events come from, where alerts go, what is kept."""

    source: str | None = None
    """Address of the event stream, such as `tcp://0.0.0.0:7000`. None: train only, do not detect."""
    sinks: Names = ("stdout:",)
    """Where alerts go, all of them (see `client.connectors.sinks`)."""
    status: Annotated[str, Field(pattern=ADDRESS)] | None = None
    """`HOST:PORT` that serves /metrics and /healthz. None: not served."""
    release: Annotated[float, Field(gt=0, le=1)] = 0.8
    """An incident ends when scores stay below this share of the threshold."""
    end_after: PositiveInt = 5
    """For so many events in a row."""
    explain: PositiveInt = 5
    """Features that an alert names."""
    keep_rows: Annotated[int, Field(ge=100)] = 50_000
    """Normal events that are kept on disk to train on."""
    settle: PositiveInt = 32
    """Events around an incident, on both sides, that training never sees."""
    drift_p: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Probability below which recent scores are held to be of another distribution."""
    trainer_memory_mb: Annotated[int, Field(ge=256)] = 2048
    """Resident memory at which the trainer is started anew."""


class DataSettings(Section):
    """Which columns are features. By default every numeric column but the ones named here.

    Names with a leading underscore are never features unless `features` lists them.
    """

    features: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    label: str = "label"
    split: str = "split"
    """Column with 0 for training rows and 1 for test rows; where it is absent every row trains."""
    timestamp: str = "ts"
    ignore: Names = ()

    @model_validator(mode="after")
    def _roles_do_not_overlap(self) -> Self:
        special = {"label": self.label, "split": self.split, "timestamp": self.timestamp}
        if len(set(special.values())) < len(special):
            raise ValueError(f"'label', 'split' and 'timestamp' must name three columns, not {special}")
        for name in self.features or ():
            for role, column in special.items():
                if name == column:
                    raise ValueError(f"'features' lists '{name}', which is the {role} column")
            if name in self.ignore:
                raise ValueError(f"'{name}' stands in both 'features' and 'ignore'")
        if self.features is not None and len(set(self.features)) < len(self.features):
            raise ValueError("'features' lists a column twice")
        return self


class ServerSettings(Section):
    """Where the server listens, who may come, and where it keeps its state (`docs/security.md`)."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs a certificate, or `insecure`."""
    port: Port = 8000
    tls_certificate: FilePath | None = None
    """PEM file that clients are shown. With it, only clients whose key is enrolled take part."""
    tls_key: FilePath | None = None
    """Its private key."""
    insecure: bool = False
    """Whether to listen to other machines without TLS: whoever is on the network reads and takes part."""
    superlink_port: Port | None = None
    """Loopback port of SuperLink with its Control API, where clients reach a gateway. None: any free one."""
    state: FilePath = Path("runs/server")
    keep_versions: Annotated[int, Field(ge=2)] = 10
    """Newest versions that stay on disk."""
    status: Annotated[str, Field(pattern=ADDRESS)] | None = None
    """`HOST:PORT` that serves the status page, /status, /metrics and /healthz. None: not served."""
    alerts_token: Annotated[str, Field(min_length=16, max_length=256, pattern=r"^[!-~]+$")] | None = None
    """What an edge has to show to post its alerts to /alerts of `status` (`docs/status.md`).

    None: the server takes no alerts.
    """
    database: str | None = None
    """Where history is kept: `postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME`, or `sqlite:///FILE`.

    None: `history.sqlite` in the state folder.
    """

    @field_validator("alerts_token", mode="wrap")
    @classmethod
    def _is_a_token(cls, token: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(token)
        except ValidationError:  # whose message would show it
            raise ValueError("expected a text of 16 to 256 printable ASCII letters, no space") from None

    @field_validator("database")
    @classmethod
    def _is_a_database(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("postgresql://", "sqlite:///")):
            raise ValueError("expected postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME or sqlite:///FILE")
        return url

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("'tls_certificate' and 'tls_key' go together, and only together")
        return self


class ClientSettings(Section):
    """One edge: its name in the federation, its data, its server."""

    name: Annotated[str, Field(pattern=CLIENT_NAME)] | None = None
    """Unique in the fleet. None: the data file's name without its ending."""
    server: Annotated[str, Field(pattern=ADDRESS)] = "127.0.0.1:8000"
    tls_ca: FilePath | None = None
    """PEM file of the CA that issued the server's certificate. None: plain HTTP."""
    key: FilePath | None = None
    """This client's private key, which the server's operator has enrolled."""
    data: FilePath | None = None
    state: FilePath | None = None
    """Folder for what the client keeps. None: `runs/clients/NAME`."""

    @model_validator(mode="after")
    def _key_goes_with_tls(self) -> Self:
        if (self.tls_ca is None) != (self.key is None):
            raise ValueError("'tls_ca' and 'key' go together, and only together")
        return self


class LocalSettings(Section):
    """`flockwatch local`: a whole federation on this machine."""

    data: FilePath | None = None
    """A folder with one data file a client, or one file to divide. None: what `generate` makes."""
    generate: Literal["telemetry", "normal"] = "telemetry"
    """telemetry: machines with labelled faults. normal: independent standard-normal features."""
    clients: PositiveInt | None = None
    """Among how many clients one file is divided, or how many are generated. None: 3."""
    partition: Literal["iid", "contiguous", "column", "dirichlet"] = "iid"
    """How one file is divided."""
    column: str | None = None
    """The column that names each row's client, for `partition: column`."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    """For `partition: dirichlet`: the smaller, the more the clients differ."""
    rows: Annotated[int, Field(ge=100)] = 4000
    """Training rows of each generated client."""
    features: PositiveInt = 10
    """Features of `generate: normal`."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Of what is generated and how a file is divided."""
    runs: FilePath = Path("runs")
    """Each run gets a folder of its own in here."""
    compare: bool = True
    """Whether to train local-only and pooled models too and print them beside the federated one."""
    live: bool = False
    """Whether to end with live streams: each client scores normal test rows, and a fault is put into one."""

    @model_validator(mode="after")
    def _column_goes_with_partition(self) -> Self:
        if (self.partition == "column") != (self.column is not None):
            raise ValueError("'partition: column' and 'column: NAME' go together, and only together")
        return self


class EvaluateSettings(Section):
    """`flockwatch evaluate`: detection quality on a folder of labelled files (`docs/quality.md`)."""

    data: FilePath | None = None
    """A folder with one labelled file a client."""
    seeds: PositiveInt = 3
    """Runs of every row, with seeds counted up from `training.seed`."""
    new_client_rows: PositiveInt | None = None
    """Training rows, the newest, of clients that no federation has met; these are measured too. None: not."""
    folds: Annotated[int, Field(ge=2)] = 4
    """Of new clients: a federation of all others for each such share of the clients."""
    workers: PositiveInt | None = None
    """Processes at work. None: one for each core."""
    runs: FilePath = Path("runs")
    """Each evaluation gets a folder of its own in here."""


class Settings(Section):
    """Everything that can be set. Immutable once loaded.

    >>> Settings().federation.max_rounds
    200
    """

    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    scaling: ScalingSettings = ScalingSettings()
    scoring: ScoringSettings = ScoringSettings()
    federation: FederationSettings = FederationSettings()
    aggregation: AggregationSettings = AggregationSettings()
    compression: CompressionSettings = CompressionSettings()
    gate: GateSettings = GateSettings()
    threshold: ThresholdSettings = ThresholdSettings()
    live: LiveSettings = LiveSettings()
    data: DataSettings = DataSettings()
    server: ServerSettings = ServerSettings()
    client: ClientSettings = ClientSettings()
    local: LocalSettings = LocalSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _strategy_has_what_it_needs(self) -> Self:
        layers = len(self.model.hidden) + 1
        if self.training.frozen >= layers:
            raise ValueError(
                f"'training.frozen' is {self.training.frozen}, but the model has {layers} layers"
            )
        if self.federation.start_names and self.federation.start_from is None:
            raise ValueError("'federation.start_names' needs 'federation.start_from'")
        if self.federation.strategy == "fedprox" and not self.training.proximal_mu:
            raise ValueError("'federation.strategy' fedprox needs 'training.proximal_mu' above 0")
        return self

    def dump(self) -> dict[str, Any]:
        """The settings as plain values that JSON and YAML can hold."""
        return self.model_dump(mode="json")

    def with_values(self, **sections: Mapping[str, Any]) -> Settings:
        """A copy with single values replaced: `settings.with_values(server={"port": 9000})`.

        Raises:
            ValueError: a value is not valid.
        """
        values = self.model_dump()
        for section, changes in sections.items():
            values[section] |= changes
        return Settings.model_validate(values)
