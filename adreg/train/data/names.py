"""The names that columns and speakers go by. Knows no rows."""

from __future__ import annotations

CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS = ("instruction", "question", "query", "prompt", "problem", "title")
ANSWERS = ("output", "answer", "response", "completion")
PAIRS = ("chosen", "rejected")
BESIDES = ("system", "history", "input")
COLUMNS = {*CONVERSATIONS, *PROMPTS, *ANSWERS, *PAIRS, "text"}
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "model": "assistant", "assistant": "assistant", "system": "system",
    "developer": "system",
}  # fmt: skip
TOOL_SPEAKERS = {
    "tool", "tool_call", "tool_response", "function", "function_call", "function_response", "observation", "ipython",
}  # fmt: skip
REFUSED = {
    "tools": "tools", "functions": "tools", "image": "images", "images": "images", "audio": "sound", "audios": "sound",
    "video": "video", "videos": "video",
}  # fmt: skip
