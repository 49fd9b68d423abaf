"""Traces over OTLP, where `OTEL_EXPORTER_OTLP_ENDPOINT` names a receiver. Knows no request and no text.

Everything else is configured as OpenTelemetry has it
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Without an endpoint nothing of it
is imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Kind: TypeAlias = Literal["internal", "server", "consumer", "client"]

log = structlog.get_logger()


class Span:
    """Something that takes time. This one is told to nobody; it hands its parent on."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent
        """Its own place in the trace, for those below it (W3C Trace Context); "" when there is no trace."""

    def end(self, error: str = "", **attributes: str | int | float | bool) -> None:
        """It is over; `error` is a code of the error table. Later ends change nothing."""


class Tracing:
    """Makes spans that go nowhere: what a process has when it was given no endpoint."""

    def span(self, name: str, traceparent: str, kind: Kind = "internal", ago_s: float = 0.0, **attributes: str) -> Span:  # noqa: ARG002
        """Begins one below `traceparent` ("": a trace of its own), `ago_s` seconds ago."""
        return Span(traceparent)

    def close(self) -> None:
        """Send what is left. Waits for the network, at most as long as the exporter's timeout."""


class _Told(Span):
    def __init__(self, span: Any) -> None:
        context = span.get_span_context()
        flags = "01" if context.trace_flags.sampled else "00"
        super().__init__(f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags}")
        self._span: Any = span  # None once it has ended

    def end(self, error: str = "", **attributes: str | int | float | bool) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        from opentelemetry.trace import StatusCode

        span.set_attributes(attributes)
        if error:
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end()


class _Otlp(Tracing):
    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("tokenrelay")
        self._propagator = TraceContextTextMapPropagator()

    def span(self, name: str, traceparent: str, kind: Kind = "internal", ago_s: float = 0.0, **attributes: str) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        carrier: Mapping[str, str] = {"traceparent": traceparent}
        return _Told(
            self._tracer.start_span(
                name,
                context=self._propagator.extract(carrier, context=Context()),
                kind=SpanKind[kind.upper()],
                attributes=attributes,
                start_time=time.time_ns() - int(ago_s * 1e9),
            )
        )

    def close(self) -> None:
        self._provider.shutdown()


def open_tracing(service: str, environ: Mapping[str, str] = os.environ) -> Tracing:
    """What the environment asks for. An endpoint without the packages is a warning, not the end of the service."""
    if not any(environ.get(name) for name in ENDPOINTS) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning("tracing_off", reason="pip install 'tokenrelay[otel]'", missing=error.name)
        return Tracing()
    name = environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return _Otlp(provider)
