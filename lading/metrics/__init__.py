"""The figures of a server and of an agent, for whoever watches programs by numbers (Prometheus and what reads its format).

`catalogue` names every figure there is; `server`, `agent` and `machine` take them; `collecting` puts them together; `text`
writes them down; `endpoint` serves them. A figure carries names from the settings only: no participant, session or file is in it.
"""
