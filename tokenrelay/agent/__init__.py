"""What a handler of one's own is written with: what it is asked, the parts it answers with, and adapters for agents of
other libraries. docs/agent.md is the guide.

A handler is an async generator, a generator or a function of one argument, the `Ask`. It yields text (`str`) and parts.
"""

from tokenrelay.agent.langgraph_adapter import langgraph
from tokenrelay.agent.openai_chunks_adapter import openai_chunks
from tokenrelay.agent.parts import (
    FINISH_REASONS,
    Alive,
    Ask,
    CallTool,
    Data,
    Fail,
    Finish,
    Message,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolOutput,
    ToolResult,
    Usage,
)
from tokenrelay.agent.pydantic_ai_adapter import pydantic_ai

__all__ = [
    "FINISH_REASONS",
    "Alive",
    "Ask",
    "CallTool",
    "Data",
    "Fail",
    "Finish",
    "Message",
    "Part",
    "Text",
    "Thinking",
    "ToolCall",
    "ToolOutput",
    "ToolResult",
    "Usage",
    "langgraph",
    "openai_chunks",
    "pydantic_ai",
]
