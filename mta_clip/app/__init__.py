"""The page of `mta-clip app`: a photo in the browser, its classes under the pointer.

`server` starts it, `page` lays it out and is the only module that knows Gradio's components; `answers` does what its
buttons ask for. `viewer/` runs in the browser.
"""
