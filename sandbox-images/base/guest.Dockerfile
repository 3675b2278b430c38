# The guest on top of a finished image: the only layer that changes when the guest does.

ARG TOOLS
FROM ${TOOLS}

COPY --chown=root:root guest /opt/corral/guest

# Compiled here, or every sandbox would compile it again at its start.
RUN /usr/bin/python3 -I -m compileall -q --invalidation-mode unchecked-hash /opt/corral/guest

ARG GUEST_DIGEST
LABEL corral.guest=${GUEST_DIGEST}
