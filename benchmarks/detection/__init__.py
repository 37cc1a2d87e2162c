"""Events, versions and detectors that benchmarks of the detector share."""
