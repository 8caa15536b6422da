// A browser starts no Worker for a page that was opened as a file. The search of the site needs one, so here is a Worker
// that runs its script in a hidden frame. On a page that comes from a server, nothing is changed.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.scope = frame.contentWindow;
      this.scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = this.scope.document.createElement("script");
      script.onload = () => {
        const messages = this.waiting;
        this.waiting = null;
        messages.forEach((data) => this.postMessage(data));
      };
      script.src = url;
      this.scope.document.head.appendChild(script);
    }

    postMessage(data) {
      if (this.waiting) {
        this.waiting.push(data);
      } else {
        this.scope.dispatchEvent(new this.scope.MessageEvent("message", { data }));
      }
    }
  };
  window.Worker = window.IFrameWorker;
}
