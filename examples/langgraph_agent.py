"""A graph of LangGraph: a model that calls a tool, and a node that tells where it stands. Without a key its model says
what is written here.

pip install 'tokenrelay[langgraph]'
"""

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph

from tokenrelay.agent import langgraph

CALL = {"name": "state_of_order", "args": {"number": 7}, "id": "call_1"}


def model() -> GenericFakeChatModel:
    """In its place: `init_chat_model("openai:gpt-5").bind_tools([…])`."""
    return GenericFakeChatModel(messages=iter([AIMessage("Your order is on its way.")]))


async def ask(state: MessagesState) -> MessagesState:
    if isinstance(state["messages"][-1], ToolMessage):
        return {"messages": [await model().ainvoke(state["messages"])]}
    return {"messages": [AIMessage("", tool_calls=[CALL])]}


async def run_tools(state: MessagesState) -> MessagesState:
    get_stream_writer()({"step": "looking at the order"})
    [call] = state["messages"][-1].tool_calls
    return {"messages": [ToolMessage(f"order {call['args']['number']} is on its way", tool_call_id=call["id"])]}


def goes_on(state: MessagesState) -> str:
    return "tools" if state["messages"][-1].tool_calls else END


graph = StateGraph(MessagesState)
graph.add_node("model", ask)
graph.add_node("tools", run_tools)
graph.add_edge(START, "model")
graph.add_conditional_edges("model", goes_on, ["tools", END])
graph.add_edge("tools", "model")

handler = langgraph(graph.compile())
