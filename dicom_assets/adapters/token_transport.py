"""HTTP requests to whoever hands out tokens: each is sent once, and what passes by itself is raised as an error.

Below the credentials, because there alone an answer's status and headers are seen, whatever the credential makes of
them. And as an error, because the library below azure-identity keeps answers for 5 to 3,600 seconds, and would give
the kept one to every further try. The tries are those of `Tokens`, so azure-identity makes none of its own.
"""

from typing import Any

from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport

from dicom_assets.adapters.token_failures import note_answer, note_silence

CONNECT_SECONDS = 5
ANSWER_SECONDS = 20
"""A sensor's tick has time for two of these waits."""


class TokenTransport(RequestsTransport):  # type: ignore[misc] # azure-core gives it out without its type
    """The requests of a credential."""

    def __init__(self) -> None:
        super().__init__(connection_timeout=CONNECT_SECONDS, read_timeout=ANSWER_SECONDS)

    def send(self, request: Any, **options: Any) -> Any:
        """Send the request and return the answer.

        Raises:
            azure.core.exceptions.AzureError: there was no answer, or one that passes by itself.
        """
        try:
            response = super().send(request, **options)
        except (ServiceRequestError, ServiceResponseError) as error:
            note_silence(error)
            raise
        if (transient := note_answer(request.url, response.status_code, response.text(), response.headers)) is not None:
            raise HttpResponseError(transient.reason, response=response)
        return response


def build_options() -> dict[str, Any]:
    """Return the arguments that make a credential of azure-identity send its requests this way."""
    return {"transport": TokenTransport(), "retry_total": 0}
