"""Looks at one device from the network, within an engagement's scope. See `posture.probes.run`."""
