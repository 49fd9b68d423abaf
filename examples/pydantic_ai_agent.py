"""An agent of pydantic-ai with a tool of its own. Set EXAMPLE_MODEL (`openai:gpt-5`, …) for a real model.

pip install 'tokenrelay[pydantic-ai]'
"""

import os

from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from tokenrelay.agent import pydantic_ai


def state_of_order(number: int) -> str:
    """Where an order is."""
    return f"order {number} is on its way"


model = os.environ.get("EXAMPLE_MODEL") or TestModel()
agent = Agent(model, instructions="You help with orders.", tools=[state_of_order])
handler = pydantic_ai(agent)
