"""Detector families: what scores with each, and the classes of those that a machine fits to its own rows."""

from __future__ import annotations

from common.detectors.contract import OwnDetector
from common.detectors.kmeans import KMeans
from common.detectors.pca import PrincipalComponents
from common.settings import DetectorFamily

OWN_DETECTORS: dict[str, type[OwnDetector]] = {"pca": PrincipalComponents, "kmeans": KMeans}

FLEET_PCA = "fleet_pca"
"""Name of the detector by principal components of the fleet's covariances, blended with the machine's own."""

MEMBERS: dict[str, type[OwnDetector]] = {FLEET_PCA: PrincipalComponents, **OWN_DETECTORS}
"""The families whose states an ensemble can hold."""

AUTOENCODER = "autoencoder"
"""Name of the detector that is the fleet's model."""

FAMILIES: dict[DetectorFamily, tuple[str, ...]] = {
    "autoencoder": (AUTOENCODER,),
    "pca": (FLEET_PCA,),
    "kmeans": ("kmeans",),
    "ensemble": (AUTOENCODER, *OWN_DETECTORS, FLEET_PCA),
}
"""The detectors that score with each `detector.family`."""

USING_COVARIANCES = frozenset(family for family, detectors in FAMILIES.items() if FLEET_PCA in detectors)
"""The families for which clients send covariances."""
