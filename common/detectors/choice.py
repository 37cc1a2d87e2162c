"""The families of detectors that a machine fits to its own rows, by name."""

from __future__ import annotations

from common.detectors.contract import OwnDetector
from common.detectors.kmeans import KMeans
from common.detectors.pca import PrincipalComponents

OWN_DETECTORS: dict[str, type[OwnDetector]] = {"pca": PrincipalComponents, "kmeans": KMeans}

FLEET_PCA = "fleet_pca"
"""Name of the detector by principal components of the fleet's covariances, blended with the machine's own."""

MEMBERS: dict[str, type[OwnDetector]] = {FLEET_PCA: PrincipalComponents, **OWN_DETECTORS}
"""The families whose states an ensemble can hold."""
