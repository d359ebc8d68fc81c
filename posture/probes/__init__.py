"""Look at one device from the network, within an engagement's scope.

`posture.probes.probe` says what a probe is, `posture.probes.run` has them look.
"""
