"""A language model behind an OpenAI-compatible endpoint: asked in bounded parallel, retried, answers kept on disk.

No torch, and nothing but the standard library on the way out.
"""

from superrl.endpoint.answers import Answers
from superrl.endpoint.client import KEY_ENV, Chat, Client, Endpoint, Refused, endpoint

__all__ = ["KEY_ENV", "Answers", "Chat", "Client", "Endpoint", "Refused", "endpoint"]
