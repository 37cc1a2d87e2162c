"""All settings, typed, in sections. `common.config` reads them from files, the environment and flags."""

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
Codec = Literal["none", "int8", "topk", "ternary", "auto"]
DetectorFamily = Literal[
    "autoencoder", "pca", "gaussian", "isolation_forest", "kmeans", "one_class_svm", "ensemble"
]
Activation = Literal["relu", "tanh", "sigmoid", "elu", "linear"]
PositiveInt = Annotated[int, Field(ge=1)]
MAX_EPOCHS, MAX_BATCH = 1000, 65_536
"""Bounds of the work and the memory of a training task, which a server decides for all clients."""
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
FilePath = Annotated[Path, Field(strict=False)]
Port = Annotated[int, Field(ge=1, le=65535)]
CLIENT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}$"
Names = Annotated[tuple[str, ...], Field(strict=False)]


REMOVED_SETTINGS = {
    "scoring.combine": "remove it: a client always blends the weights of the fleet's network and its own",
    "live.settle": "it is now 'live.incident_margin'",
    "live.quarantine": "it is now 'live.incident_margin'",
    "threshold.quantile": "remove it: the threshold follows from 'threshold.budget' in files too",
    "compression.up: float16": "use int8, which is half as large",
    "compression.up: sign": "use ternary",
    "compression.up: topk_int8": "use ternary",
    "compression.up: lowrank": "use ternary",
    "compression.up_rank": "remove it: sparse codecs have 'compression.up_share'",
    "compression.down: float16": "use int8, which is half as large",
    "compression.down: sign": "use ternary",
    "compression.down: topk_int8": "use ternary",
    "compression.down: lowrank": "use ternary",
    "compression.down_rank": "remove it: sparse codecs have 'compression.down_share'",
}
"""Settings that no longer exist, each with what to do about it.

A key is `section.name` for a setting, or `section.name: value` for a value that a setting no longer has.
"""


class Section(BaseModel):
    """One section of the settings: immutable, strictly typed, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DetectorSettings(Section):
    """The detectors that score events. The server decides for all clients."""

    family: DetectorFamily = "ensemble"
    """autoencoder: the fleet's model, personalised. pca: principal components of the fleet's covariances,
    blended with the machine's own; each client sends the covariances of its features once. gaussian:
    Mahalanobis distance by the same covariances. isolation_forest: random trees in whose leaves all clients
    count their windows, which each sends once. kmeans: distance from the nearest of some centres of the
    machine's own rows. one_class_svm: a one-class support vector machine of the machine's own rows.
    ensemble: the weighted vote of autoencoder, pca, isolation_forest and kmeans.

    A machine that does not train scores by the autoencoder (`docs/families.md`).
    But for the autoencoder's, scores are surprisals: 0.7 is usual, and 1 more is 2.7 times as rare.
    """


class ModelSettings(Section):
    """The model: an autoencoder that reconstructs a window of events. The server decides for all clients."""

    window: PositiveInt = 10
    """Events in a window, the scored one included."""
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (64, 16, 64)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Activation of the hidden layers."""
    output_activation: Activation = "linear"
    """Activation of the last layer. linear: scaled values have no bounds."""


class TrainingSettings(Section):
    """The training of a version by a client."""

    optimizer: Literal["adam", "sgd", "rmsprop", "adamw"] = "adam"
    """The client's optimiser; its state is reset for each training task."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.001
    """Step size of the client's optimiser."""
    loss: Literal["mse", "mae", "huber"] = "mse"
    """The reconstruction error that training minimises: mean squared, mean absolute, or Huber."""
    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = 1
    """Passes over the training rows in each training task. With more, clients diverge further in a round."""
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 128
    """Windows in one step of the optimiser."""
    proximal_mu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Weight of `mu / 2 * |w - w_start|^2` in the loss, which keeps the weights near the version's. 0: none.

    Source: Li et al. 2020 (FedProx).
    """
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training rows, the last ones, that are held out to measure the error.

    0: all rows are trained on, and the error is measured on the same rows.
    """
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights and of the order of the windows."""
    frozen: Annotated[int, Field(ge=0)] = 0
    """Number of layers, from the first, that keep the weights of version 0 (see `federation.start_from`)."""


class ScalingSettings(Section):
    """The scaling of features before the model reads them."""

    by: Literal["shared", "fleet", "client", "none"] = "shared"
    """The origin of the mean and the spread that values are scaled by.

    shared: the client's own mean, and the spread of the fleet's rows around the mean of their own client. For
    a client whose values spread over ten times more or less, the spread is adjusted. fleet: mean and spread
    of all rows together. client: the client's own mean and spread, at least a tenth of the fleet's. none:
    values are not scaled. A nearly constant feature is not scaled up beyond the smallest step of its values.
    """
    clip: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = 10.0
    """Beyond this many standard deviations scaled values grow with their logarithm, so that none dominates.

    None: no limit.
    """

    @model_validator(mode="before")
    @classmethod
    def _no_scale_no_clip(cls, values: Any) -> Any:
        return {"clip": None, **values} if isinstance(values, dict) and values.get("by") == "none" else values

    @model_validator(mode="after")
    def _clip_needs_a_scale(self) -> Self:
        if self.by == "none" and self.clip is not None:
            raise ValueError("'clip' is in standard deviations, so 'by' must be shared, fleet or client")
        return self


class ScoringSettings(Section):
    """Scoring by a client, and the personalisation of a version before that (`docs/decisions`, 16)."""

    normalise: bool = True
    """Whether each input's squared error is divided by its usual size on normal rows.

    Without it, inputs that are hard to reconstruct outweigh all others.
    """
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Weight of an event's error in its window, as a share of the weight of the next event.

    The newest event is the one that is scored, so it weighs most. 1: all weigh the same.
    """
    personal_epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] = 5
    """Passes over a client's own rows that tune a version for this client. 0: weights are not tuned."""
    prior: PositiveInt = 1000
    """Windows with which a client's own rows and the fleet count the same.

    With `n` windows, what a client learns from its own rows has the weight `n / (n + prior)`. The default was
    measured on two data sets.
    """


class FederationSettings(Section):
    """Rules: who trains when, how late updates count, and when training pauses or ends (`docs/async.md`)."""

    mode: Literal["synchronous", "asynchronous"] = "synchronous"
    """synchronous: rounds wait for all sampled clients, or for a quorum. asynchronous: no client waits."""
    strategy: Strategy = "fedavg"
    """The strategy of Flower that aggregates updates; its parameters are in section `aggregation`."""
    max_model_mb: PositiveInt = 64
    """Largest size of the model's weights in MB. Clients whose features would make a larger one are refused.

    64 are 13,003 features with the default `model`. `data.features` with more is an error at the start.
    """
    max_rounds: PositiveInt | None = None
    """The run ends after this many versions, or before that when it has converged or no client connects.

    None: the server goes on until it is stopped. `flockwatch local` and `flockwatch evaluate` end after 200.
    """
    start_from: FilePath | None = None
    """Version file of another fleet to start from. None: version 0 has drawn weights.

    Weights are taken over for the features that both fleets have.
    """
    start_names: Annotated[dict[str, str], Field(strict=False)] = {}
    """Names of features in that fleet, by their names in this one, where the two differ."""
    fraction: Fraction = 1.0
    """Synchronous: share of the connected clients that a round samples."""
    min_clients: PositiveInt = 2
    """Synchronous: connected clients that a round needs, and the smallest number that it samples.

    Asynchronous: connected clients that the first version needs.
    """
    quorum: Fraction = 0.5
    """Synchronous: share of the sampled clients whose updates are enough at the deadline.

    Asynchronous: share of the connected clients whose updates make the first version.
    """
    deadline_s: Seconds = 60.0
    """Synchronous: seconds after which a round closes if it has a quorum. With all updates it closes at once.

    Asynchronous: seconds after which a client's task counts as lost, until the client's usual time is known.
    """
    buffer: PositiveInt = 4
    """Asynchronous: updates that are aggregated into a version. 1: each update makes one (FedAsync)."""
    in_flight: PositiveInt | None = None
    """Asynchronous: largest number of clients that have a task at a time. None: all."""
    staleness_limit: Annotated[int, Field(ge=0)] = 20
    """Updates that are staler than this many versions are dropped."""
    staleness: Literal["polynomial", "constant", "hinge"] = "polynomial"
    """The weight of an update that is `s` versions stale.

    polynomial: `(1 + s) ** -power`. constant: 1, which can diverge. hinge: 1 up to `free`, then
    `1 / (1 + power * (s - free))`.
    """
    staleness_power: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    """`power` in the formulas of `staleness`."""
    staleness_free: Annotated[int, Field(ge=0)] = 4
    """`free` in the formula of the hinge: versions of staleness that cost no weight."""
    wait_s: Seconds = 600.0
    """Seconds after which a round without a quorum is given up, and its clients' tasks with it.

    With `max_rounds`, also the seconds of waiting for clients after which the run ends.
    """
    interval_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Shortest time between two versions, in seconds. 0: no pause."""
    converged_interval_s: Seconds = 600.0
    """Shortest time between two versions while the federation has converged, in seconds.

    A new client, or one that reports drift, starts the next version at once.
    """
    training_share: Fraction = 0.1
    """Without `max_rounds`, after the first convergence: largest share of its time that a client trains.

    The first training is as fast as the clients are; later training must not disturb their machines.
    """
    patience: Annotated[int, Field(ge=0)] = 10
    """The federation has converged after this many rounds without improvement. 0: it never has.

    Asynchronous: as many updates as there are clients count as a round. With `max_rounds`, the run then ends.
    """
    min_improvement: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share by which the weighted reconstruction error must fall below its best value to have improved."""


class CompressionSettings(Section):
    """Codecs of differences of weights: up to the server, down to clients (`docs/compression.md`)."""

    up: Codec = "int8"
    """Codec of updates. int8 costs no measurable quality. auto: by the size of the model and each link."""
    up_share: Fraction = 0.08
    """topk, ternary: share of the values in an update; the rest is added to the next one."""
    down: Codec = "none"
    """Codec of new versions for clients that hold an earlier one. none: whole versions."""
    down_share: Fraction = 0.2
    """topk, ternary: share of the values that a new version changes."""
    zstd: bool = True
    """Whether encoded differences are also compressed by zstd, without loss."""


class AggregationSettings(Section):
    """Parameters of the strategies. Each description names the strategies that use it."""

    server_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    """fedadam, fedyogi: step size of the server's optimiser. Source: Reddi et al. 2021."""
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """fedadam, fedyogi: decay of the mean of updates."""
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """fedadam, fedyogi: decay of the mean of squared updates."""
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.001
    """fedadam, fedyogi: added to the denominator, so that steps stay finite for tiny updates."""
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.25
    """fedtrimmedavg: share of the clients cut off at either end of each weight. Source: Yin et al. 2018."""
    malicious: Annotated[int, Field(ge=0)] = 1
    """krum, multikrum: number of clients that may send arbitrary updates. Source: Blanchard et al. 2017."""
    select: PositiveInt = 4
    """multikrum: number of updates, those nearest to each other, that are averaged."""


class GateSettings(Section):
    """Updates that are rejected or clipped, besides those that are damaged."""

    norm_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.5
    """Largest norm of an update, in robust standard deviations of log norms above the fleet's median.

    It is at least 1.35 times the median norm, which a client of usual norm cannot undo alone, not even in a
    fleet of three. Of two clients, the smaller norm takes the median's place. None: no limit.
    """
    norm_action: Literal["refuse", "clip"] = "clip"
    """clip: an update above the limit is scaled down to it. refuse: it is not used; with a limit of 3, hardly
    any honest client is refused."""


class ThresholdSettings(Section):
    """The score above which an event is abnormal."""

    budget: str = "1 per day"
    """False incidents that are accepted, `N per hour`, `N per day` or `N per week`."""
    interval_s: Seconds | None = None
    """Seconds between two events. None: measured, for files by their time column."""
    value: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """A fixed threshold, in units of the score. None: the threshold follows from the budget."""

    @field_validator("budget")
    @classmethod
    def _is_a_budget(cls, text: str) -> str:
        Budget.parse(text)
        return text


class LiveSettings(Section):
    """The detector: where events come from, where notices go, and what is kept (`docs/live.md`)."""

    source: str | None = None
    """Address of the event stream, such as `tcp://0.0.0.0:7000`. None: the client only trains."""
    sinks: Names = ("stdout:",)
    """Addresses that notices are sent to, such as `file:PATH` or `https://HOST/PATH`."""
    status: Annotated[str, Field(pattern=ADDRESS)] | None = None
    """`HOST:PORT` of the endpoints /metrics and /healthz. None: there are none."""
    status_hosts: Names = ()
    """Names by which scrapers, probes and browsers reach `status`, such as this machine's full name.

    Its address, this machine's name and `localhost` are known without.
    """
    start_after: PositiveInt | None = None
    """Number of events in a row above the threshold that start an incident.

    None: one event above twice the threshold, or two in a row; more while there is little evidence for it.
    """
    release: Annotated[float, Field(gt=0, le=1)] = 1.0
    """An incident ends when scores stay at or below this share of the threshold."""
    end_after: PositiveInt = 3
    """Number of events in a row at or below `release` that end an incident."""
    flap_after: PositiveInt = 3
    """Incidents with the same leading feature within a day that are reported; the next one is `flapping`."""
    adapt_after_s: Seconds | None = 86400.0
    """Seconds, in the stream's time, after which a lasting incident is taken as the new normal state.

    A quarter of it after the incident's start, a notice says that the state has changed. None: never.
    """
    explain: PositiveInt = 5
    """Number of causes, the features with the largest shares of the error, that an alert names."""
    warm_up: PositiveInt | None = None
    """Events by which a detector first adapts a version of the fleet to its machine, at least one window.

    Before that there are no verdicts. None: 25 events, or one window if that is more.
    """
    keep_rows: Annotated[int, Field(ge=100)] = 50_000
    """Normal events in the training buffer on disk, the newest ones. 50,000 of 40 features are 8 MB."""
    incident_margin: PositiveInt = 32
    """Events before and after an incident that are not trained on: a fault may begin before its alert."""
    habit_days: Annotated[int, Field(ge=2)] | None = 3
    """Days with unusual events of one cause at about the same time, after which they are trained on.

    A nightly backup is told on the first nights, and learned. None: nothing unusual is ever learned.
    """
    sensor_silent_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Seconds without a value, or without a new one, and 30 events, after which a feature is reported that
    usually has one."""
    stream_silent_s: Seconds = 600.0
    """Seconds without an event, and 20 usual intervals, after which the stream is reported as silent."""
    drift_p: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """The p-value below which recent scores count as drifted. It is small: every 1,000 events are tested."""
    trainer_memory_mb: Annotated[int, Field(ge=256)] = 2048
    """Resident memory in MB at which the trainer process is restarted."""


class DataSettings(Section):
    """The columns of the data: which are features, and the meaning of the others."""

    features: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    """The columns that are features. None: every numeric column that no other setting of this section names.

    On the server: the features of the fleet. None: those that most of its clients share.

    Columns whose names begin with an underscore are features only if they are listed here.
    """
    label: str = "label"
    """Column with 0 for normal and 1 for abnormal test rows. It only measures detection, on this machine."""
    split: str = "split"
    """Column with 0 for training rows and 1 for test rows. Without this column all rows are training rows."""
    timestamp: str | None = None
    """Column with the time of each row: Unix time in s, ms, us or ns, or ISO 8601. It is not a feature.

    None: it is found by a usual name, such as ts, time, timestamp, datetime or date, or by what it holds.
    """
    ignore: Names = ()
    """More columns that are not features."""

    @model_validator(mode="after")
    def _roles_do_not_overlap(self) -> Self:
        special = {"label": self.label, "split": self.split}
        if self.timestamp is not None:
            special["timestamp"] = self.timestamp
        if len(set(special.values())) < len(special):
            raise ValueError(f"'label', 'split' and 'timestamp' must name different columns, not {special}")
        for name in self.features or ():
            for role, column in special.items():
                if name == column:
                    raise ValueError(f"'features' lists '{name}', which is the {role} column")
            if name in self.ignore:
                raise ValueError(f"'{name}' is listed in both 'features' and 'ignore'")
        if self.features is not None and len(set(self.features)) < len(self.features):
            raise ValueError("'features' lists a column twice")
        return self

    @property
    def time_name(self) -> str:
        """The name under which times are written: `timestamp`, or `ts`."""
        return self.timestamp or "ts"


class ServerSettings(Section):
    """The server: its ports, the clients that may connect, and its state (`docs/security.md`)."""

    host: str = "127.0.0.1"
    """Address to listen on. Addresses that other machines can reach need a certificate, or `insecure`."""
    port: Port = 8000
    """Port that clients connect to."""
    tls_certificate: FilePath | None = None
    """PEM file of the server's certificate. With it, only registered clients may connect."""
    tls_key: FilePath | None = None
    """PEM file of the certificate's private key."""
    insecure: bool = False
    """Whether to listen to other machines without TLS: anyone on the network can then read and take part."""
    superlink_port: Port | None = None
    """Loopback port of SuperLink behind the gateway. None: any free port."""
    state: FilePath = Path("runs/server")
    """Folder for versions, history, and what a restart continues from."""
    keep_versions: Annotated[int, Field(ge=2)] = 10
    """Number of newest versions that stay on disk."""
    status: Annotated[str, Field(pattern=ADDRESS)] | None = None
    """`HOST:PORT` of the status page, /status, /metrics and /healthz. None: there are none."""
    status_hosts: Names = ()
    """Names by which browsers and scrapers reach `status`, such as the one of a proxy in front of it.

    Its address, this machine's name and `localhost` are known without.
    """
    alerts_token: Annotated[str, Field(min_length=16, max_length=256, pattern=r"^[!-~]+$")] | None = None
    """Secret that clients' tokens follow from, with which they post notices to /alerts (`docs/status.md`).

    `flockwatch enroll NAME` prints a client's token. None: the server accepts no notices.
    """
    database: str | None = None
    """Database of the history: `postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME` or `sqlite:///FILE`.

    None: `history.sqlite` in the state folder.
    """

    @field_validator("alerts_token", mode="wrap")
    @classmethod
    def _is_a_token(cls, token: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(token)
        except ValidationError:  # its message would show the token
            raise ValueError("expected text of 16 to 256 printable ASCII characters without spaces") from None

    @field_validator("database")
    @classmethod
    def _is_a_database(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("postgresql://", "sqlite:///")):
            raise ValueError("expected postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME or sqlite:///FILE")
        return url

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("'tls_certificate' and 'tls_key' must be set together")
        return self


class LogSettings(Section):
    """How long logs and the history are kept, on the server and on clients."""

    max_mb: PositiveInt = 10
    """Size in MB at which a log is set aside as `NAME.1`, in place of the part before."""
    max_days: PositiveInt = 90
    """Days after which a part that was set aside is deleted."""
    history_days: PositiveInt = 365
    """Days for which rounds, replies, notes and notices stay in the history, at most 100,000 of each."""


class ClientSettings(Section):
    """One client: its name, its data, and its server."""

    name: Annotated[str, Field(pattern=CLIENT_NAME)] | None = None
    """Name of the client, unique in the fleet. None: the data file's name without its suffix."""
    server: Annotated[str, Field(pattern=ADDRESS)] = "127.0.0.1:8000"
    """`HOST:PORT` of the server."""
    tls_ca: FilePath | None = None
    """PEM file of the CA that issued the server's certificate. None: the connection has no TLS."""
    key: FilePath | None = None
    """File of this client's private key, whose public key the server's operator has registered."""
    data: FilePath | None = None
    """CSV or Parquet file to train on. None: only the live stream is trained on."""
    min_rows: PositiveInt | None = None
    """Normal events that a client with a live stream gathers before it trains.

    None: 100, or ten for each event of the model's window, or five for each feature, whichever is most.
    """
    state: FilePath | None = None
    """Folder for the client's state. None: `runs/clients/NAME`."""

    @model_validator(mode="after")
    def _key_goes_with_tls(self) -> Self:
        if (self.tls_ca is None) != (self.key is None):
            raise ValueError("'tls_ca' and 'key' must be set together")
        return self


class LocalSettings(Section):
    """`flockwatch local`: a whole federation on this machine."""

    data: FilePath | None = None
    """A folder with one data file for each client, or one file to divide. None: data are generated."""
    generate: Literal["telemetry", "normal"] = "telemetry"
    """Generated data. telemetry: machines with labelled faults. normal: independent normal values."""
    clients: PositiveInt | None = None
    """Number of clients that one file is divided among or data are generated for. None: 3 are generated."""
    partition: Literal["iid", "contiguous", "column", "dirichlet"] = "iid"
    """The division of one file into partitions.

    iid: blocks of rows at random. contiguous: one run of consecutive rows for each client. column: by the
    values of `column`. dirichlet: clients differ in size and in the kind of their rows.
    """
    column: str | None = None
    """For `partition: column`: the column that names each row's client."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    """For `partition: dirichlet`: the smaller, the more the clients differ."""
    rows: Annotated[int, Field(ge=100)] = 4000
    """Training rows of each generated client."""
    features: PositiveInt = 10
    """For `generate: normal`: number of features."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of generated data and of the division of a file."""
    runs: FilePath = Path("runs")
    """Folder in which each run gets a folder of its own."""
    compare: bool = True
    """Whether to train local-only and pooled models too, and print their quality beside the federated one."""
    live: bool = False
    """Whether the run ends with live streams: clients score normal test rows, and one of them has a fault."""

    @model_validator(mode="after")
    def _column_goes_with_partition(self) -> Self:
        if (self.partition == "column") != (self.column is not None):
            raise ValueError("'partition: column' and 'column: NAME' must be set together")
        return self


class EvaluateSettings(Section):
    """`flockwatch evaluate`: detection quality on a folder of labelled files (`docs/quality.md`)."""

    data: FilePath | None = None
    """A folder with one labelled file for each client."""
    seeds: PositiveInt = 3
    """Runs of each method, with seeds from `training.seed` upwards."""
    new_client_rows: PositiveInt | None = None
    """Training rows of clients that join after training, which are measured too. None: they are not."""
    folds: Annotated[int, Field(ge=2)] = 4
    """With `new_client_rows`: groups of clients; each group in turn joins a federation of the others."""
    workers: PositiveInt | None = None
    """Number of processes. None: one for each core."""
    runs: FilePath = Path("runs")
    """Folder in which each evaluation gets a folder of its own."""


class Settings(Section):
    """All settings. They are immutable once loaded.

    >>> Settings().federation.patience
    10
    """

    detector: DetectorSettings = DetectorSettings()
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
    logs: LogSettings = LogSettings()
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
        """Return the settings as plain values, for JSON and YAML."""
        return self.model_dump(mode="json")

    def with_values(self, **sections: Mapping[str, Any]) -> Settings:
        """Return a copy with some values replaced: `settings.with_values(server={"port": 9000})`.

        Raises:
            ValueError: a value is not valid.
        """
        values = self.model_dump()
        for section, changes in sections.items():
            values[section] |= changes
        return Settings.model_validate(values)
