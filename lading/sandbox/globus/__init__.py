"""A stand-in for Globus: Auth and Transfer over REST, moving real files between folders of this machine.

The unmodified globus-sdk and the `globus` command talk to it when GLOBUS_SDK_SERVICE_URL_AUTH and …_TRANSFER name it.
"""
