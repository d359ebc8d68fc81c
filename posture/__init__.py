"""Is this device fit? Dated criteria, engagements, probes, declarations, and four verdicts that each give a reason.

The steps: a person approves an engagement (`posture.engagements`), probes look within it (`posture.probes`), a pure
function joins what they saw with what the manufacturer declared (`posture.evaluate`), and one assessment is recorded
with a Merkle root over its verdicts (`posture.service`). Limits: docs/limitations.md; most cameras' requirements cannot
be confirmed from the network at all, and lachan then says ``unknown`` and why.
"""
