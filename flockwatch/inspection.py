"""`flockwatch inspect`: the contents of a model version, or the columns of a data file, as text."""

from __future__ import annotations

import json
from pathlib import Path

from common.budget import Budget
from common.detectors.choice import AUTOENCODER, FAMILIES
from common.display import printable
from common.model.manifest import Manifest, ManifestError
from common.model.threshold import tail_quantile
from common.model.weights import norm
from common.settings import DataSettings


def data_description(file: Path, data: DataSettings) -> str:
    """Return what the columns of a data file are, for people.

    Raises:
        DataError: the file cannot be used.
    """
    from client.data.files.partitions import read_partition  # loads pyarrow

    partition = read_partition(file, data)
    rows = f"{len(partition.rows)} training rows, {len(partition.test_rows)} test rows"
    warnings = partition.columns.warnings() if partition.columns is not None else []
    return "\n".join([f"{file}: {rows}", *partition.description().split("; "), *warnings])


def description(file: Path) -> str:
    """Return a summary of the manifest in a file, for people.

    Raises:
        ManifestError: the file is not a manifest, or damaged.
        OSError: the file cannot be read.
    """
    content = file.read_bytes()
    try:
        manifest = Manifest.unpack(content)
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from error
    shape, moments = manifest.architecture, manifest.moments
    lines = [
        f"version       {manifest.version}",
        f"hash          {manifest.hash}",
        f"of            {_owner(manifest)}",
        f"size          {len(content)} bytes",
        f"model         window {shape.window}, widths {' '.join(map(str, shape.widths))}, "
        f"{shape.activation}, output {shape.output_activation}",
        f"detectors     {_detectors(manifest)}",
        f"weights       {sum(w.size for w in manifest.weights.values())}, norm {norm(manifest.weights):.4g}",
        f"scores        {manifest.scores.count}, of held-out events",
        f"residuals     of {manifest.residuals.count} windows",
    ]
    if manifest.scores.count:
        budget = Budget.parse(manifest.settings.threshold.budget)
        for interval_s, name in ((1.0, "second"), (60.0, "minute"), (300.0, "five minutes")):
            threshold = tail_quantile(manifest.scores, budget.rate(interval_s))
            lines.append(
                f"threshold     {threshold:.4g} for a budget of {manifest.settings.threshold.budget}, "
                f"with one event every {name}"
            )
    lines.append(f"rows          {moments.count}; features with mean, standard deviation and range:")
    for i, name in enumerate(manifest.schema.features):
        summary = f"{moments.mean[i]:>12.5g} {moments.variance[i] ** 0.5:>12.5g}"
        lines.append(
            f"  {printable(name):<24} {summary}   {moments.minimum[i]:.5g} to {moments.maximum[i]:.5g}"
        )
    lines.append(f"settings      {json.dumps(manifest.settings.values)}")
    return "\n".join(lines)


def _detectors(manifest: Manifest) -> str:
    if manifest.ensemble is not None:
        weights = manifest.ensemble.weights
        return "the votes of " + ", ".join(f"{name} {weights[name]:.2f}" for name in manifest.ensemble.tails)
    family = manifest.settings.detector.family
    if family != AUTOENCODER:
        sums = {"covariances": manifest.covariances, "leaf counts": manifest.leaf_counts}
        more = "".join(
            f" ({name} of {fleet.count} windows)" for name, fleet in sums.items() if fleet is not None
        )
        return f"the autoencoder; on a client that trains: {', '.join(FAMILIES[family])}{more}"
    return "the autoencoder"


def _owner(manifest: Manifest) -> str:
    if manifest.personalised:
        return "one client, which has personalised it"
    return "the fleet; a client adapts it to itself before it scores by it"
