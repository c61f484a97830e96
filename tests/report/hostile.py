"""What a page must show as text and never run."""

HOSTILE = '<script>alert("x")</script> & <b>bold</b>'
