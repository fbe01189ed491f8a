"""Recordings: a rig's decoded and compressed frames and its side information in one MCAP file.

Topics, all with protobuf schemas (Foxglove shows the images):

    /RIG/CAMERA/frames             ndsc.v1.DecodedFrame without its image: the compressed frame, which side
                                   information served, sizes, times
    /RIG/CAMERA/image              foxglove.CompressedImage: the decoded picture
    /RIG/STREAM/side_information   foxglove.CompressedImage as it was received, or foxglove.RawImage

A message's publish time is the capture time, its log time when it was recorded. The packages that this needs come
with `pip install 'ndsc[recording]'`.

errors    what goes wrong
writer    messages of a subscription → file
file      the records of an MCAP file
reader    file → frames with their side information
replay    frames decoded again, and compared with the recorded pictures
"""
