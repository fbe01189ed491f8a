"""A page to look at: a rig's cameras, live, with what the side information is worth.

    decoder ── Subscribe, Decode, lists ──→ RigWatcher ──→ HTTP and server-sent events ──→ browser
    nodes ──── GetNode, GetSource, SetRate ──→

settings   what the viewer can be told
shelf      the newest frames and their side information
rig        follows the decoder and the nodes, and tells browsers
quality    PSNR of the newest frames, with side information and without
server     HTTP, and the process
page/      what the browser runs: plain HTML, CSS and one module
"""
