"""Detector families: what scores with each, and the classes of those that a machine fits to its own rows."""

from __future__ import annotations

from common.detectors.contract import CovarianceDetector, OwnDetector
from common.detectors.gaussian import Gaussian
from common.detectors.isolation_forest import IsolationForest
from common.detectors.kmeans import KMeans
from common.detectors.one_class_svm import OneClassSvm
from common.detectors.pca import PrincipalComponents
from common.settings import DetectorFamily

OWN_DETECTORS: dict[str, type[OwnDetector]] = {
    "pca": PrincipalComponents, "gaussian": Gaussian, "isolation_forest": IsolationForest, "kmeans": KMeans,
    "one_class_svm": OneClassSvm,
}  # fmt: skip

FLEET_PCA, FLEET_GAUSSIAN = "fleet_pca", "fleet_gaussian"
"""Names of the detectors by the fleet's covariances, blended with the machine's own."""

OF_COVARIANCES: dict[str, type[CovarianceDetector]] = {
    FLEET_PCA: PrincipalComponents, FLEET_GAUSSIAN: Gaussian,
}  # fmt: skip

FLEET_FOREST = "fleet_forest"
"""Name of the isolation forest by the fleet's counts in the leaves, blended with the machine's own."""

IN_PLACE: dict[str, DetectorFamily] = {
    FLEET_PCA: "pca",
    FLEET_GAUSSIAN: "gaussian",
    FLEET_FOREST: "isolation_forest",
}
"""The detectors that follow from sums over the fleet, and those of the own rows that score without them."""

MEMBERS: dict[str, type[OwnDetector]] = {**OF_COVARIANCES, FLEET_FOREST: IsolationForest, **OWN_DETECTORS}
"""The families whose states an ensemble can hold."""

AUTOENCODER = "autoencoder"
"""Name of the detector that is the fleet's model."""

FAMILIES: dict[DetectorFamily, tuple[str, ...]] = {
    "autoencoder": (AUTOENCODER,),
    "pca": (FLEET_PCA,),
    "gaussian": (FLEET_GAUSSIAN,),
    "isolation_forest": (FLEET_FOREST,),
    "kmeans": ("kmeans",),
    "one_class_svm": ("one_class_svm",),
    "ensemble": (AUTOENCODER, FLEET_PCA, FLEET_FOREST, "kmeans"),
}
"""The detectors that score with each `detector.family`."""

PCA = (FLEET_PCA, "pca")
RECONSTRUCTING = frozenset({AUTOENCODER, *PCA})
"""The detectors whose score says how badly few numbers reproduce a window."""

USING_COVARIANCES = frozenset(
    family for family, detectors in FAMILIES.items() if OF_COVARIANCES.keys() & set(detectors)
)
"""The families for which clients send covariances."""

USING_LEAF_COUNTS = frozenset(family for family, detectors in FAMILIES.items() if FLEET_FOREST in detectors)
"""The families for which clients send leaf counts."""

USING_SUMS = USING_COVARIANCES | USING_LEAF_COUNTS
