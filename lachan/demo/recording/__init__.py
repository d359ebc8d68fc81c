"""The recording of a real attack.

`record.py` beside this file made `recording.bulk` (an attack) and `benign.bulk` (an ordinary day) from real daemons; run
it as root to record again. `lachan.recording` moves them to another time.
"""
