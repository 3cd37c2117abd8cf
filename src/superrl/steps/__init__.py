"""An expert's solution as steps: text to steps and back (`parse`), the thinking template (`think`), the gate (`gate`).

Pure functions on text; no torch, no files, no network.
"""
