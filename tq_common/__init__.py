"""What the broker, the client, the worker and the admin tool share: names, limits, formats.

It imports nothing of tq. Only `span_export` needs OpenTelemetry.
"""
