# The guest on top of a finished image: the only layer that changes when the guest does.

ARG TOOLS
FROM ${TOOLS}

COPY --chown=root:root guest /opt/corral/guest

# Compiled here, or every sandbox would compile it again at its start. Checked against the source, because a server that is
# newer than the image copies its own guest over this one; byte code that is not checked would then go on running.
RUN /usr/bin/python3 -I -m compileall -q --invalidation-mode checked-hash /opt/corral/guest

# Chromium reads no variable for this. The guest writes the file where a server opens TLS; elsewhere the link leads nowhere.
RUN mkdir -p /etc/chromium/policies/managed \
    && ln -s /run/corral-trust/chromium.json /etc/chromium/policies/managed/corral.json

ARG GUEST_DIGEST
LABEL corral.guest=${GUEST_DIGEST}
