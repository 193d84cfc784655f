"""python3 websockets_client.py URL [SUBPROTOCOL...]: text and binary to an echo and back."""
import asyncio
import sys
import websockets


async def main(url, *protocols):
    text = "grüße, 世界\r\n" * 1000
    binary = [bytes((i * 31 + size) & 255 for i in range(size)) for size in (0, 1, 125, 126, 65535, 65536, 300000)]
    async with websockets.connect(url, subprotocols=protocols or None, max_size=None) as ws:
        selected = "binary" if protocols else None
        assert ws.subprotocol == selected, ws.subprotocol
        # A list is one message in fragments.
        messages = [text, ["frag", "", "ments"], *binary]
        want = text.encode() + b"fragments" + b"".join(binary)

        async def send():
            for message in messages:
                await ws.send(message)

        sending = asyncio.create_task(send())
        got = b""
        while len(got) < len(want):
            data = await asyncio.wait_for(ws.recv(), 30)
            assert isinstance(data, bytes), "a text frame came back; bytes need not be text"
            got += data
        await sending
        assert got == want, f"{len(got)} bytes came back and differ"
        await (await ws.ping())
    assert ws.close_code == 1000, ws.close_code
    print("same")


asyncio.run(main(*sys.argv[1:]))
