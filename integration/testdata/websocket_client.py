"""python3 websocket_client.py URL [SUBPROTOCOL...]: text and binary to an echo and back."""
import sys
import websocket

url, *protocols = sys.argv[1:]
text = "grüße, 世界\r\n" * 1000
binary = [bytes((i * 31 + size) & 255 for i in range(size)) for size in (0, 1, 125, 126, 65535, 65536)]

ws = websocket.create_connection(url, subprotocols=protocols or None, timeout=30)
selected = "binary" if protocols else None
assert ws.getsubprotocol() == selected, ws.getsubprotocol()

for message in [text, *binary]:
    if isinstance(message, str):
        ws.send(message)
        want = message.encode()
    else:
        ws.send_binary(message)
        want = message
    got = b""
    while len(got) < len(want):
        opcode, data = ws.recv_data()
        assert opcode == websocket.ABNF.OPCODE_BINARY, opcode
        got += data
    assert got == want, f"{len(got)} of {len(want)} bytes came back, or others"

ws.ping("are you there")
opcode, _ = ws.recv_data_frame(control_frame=True)
assert opcode == websocket.ABNF.OPCODE_PONG, opcode

ws.send_close()
opcode, data = ws.recv_data()
assert opcode == websocket.ABNF.OPCODE_CLOSE, opcode
assert int.from_bytes(data[:2], "big") == 1000, data
ws.shutdown()
print("same")
