"""Looks at one device from the network, within an engagement's scope. See `posture.probes.probe` for what a probe is, `posture.probes.run` for what happens."""
