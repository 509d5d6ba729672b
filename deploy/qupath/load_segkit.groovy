/*
 * Loads into QuPath what `segkit predict` and `segkit sliding-window` have left of an image: objects.geojson or
 * detections.geojson as detections (or annotations) with classes and colours and, where asked for, probability.tif as
 * an overlay. For QuPath 0.5, 0.6 and 0.7.
 *
 * The open image:   set `results` below, then Run > Run.
 * A whole project:  Run > Run for project. Images without results are named and left as they are.
 * Without a window: QuPath script --project P.qpproj --save --args /path/to/predictions load_segkit.groovy
 *
 * Run again, it replaces what it has loaded before, and nothing else.
 */

import groovy.transform.Field
import java.awt.image.BufferedImage
import java.awt.image.IndexColorModel
import javafx.application.Platform
import qupath.lib.gui.viewer.overlays.BufferedImageOverlay
import qupath.lib.images.servers.ImageServers
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO
import qupath.lib.objects.PathObjects
import qupath.lib.regions.ImageRegion
import qupath.lib.regions.RegionRequest

import static qupath.lib.gui.scripting.QPEx.*

// The folder that was given to --out, with a folder for each image. "" takes the one after --args.
@Field String results = ""              // e.g. "/data/predictions", or buildFilePath(PROJECT_BASE_DIR, "predictions")
// What becomes of each object: "detection", for thousands to millions of them, or "annotation", which can be edited.
@Field String loadAs = "detection"
// Take away what this script has loaded into the image before.
@Field boolean replaceEarlier = true
// Give classes the colours that segkit's pictures have, also those that QuPath knows already.
@Field boolean setColours = true
// Lay the probability of not being background over the image, if it was written (`predict --probability`).
@Field boolean showProbability = false
// Objects that are read and added at once: what bounds the memory.
@Field int batchSize = 20000

@Field final String MARK = "segkit"     // the objects' metadata have this key, and so they are found again
@Field final String FIRST_LINE = '{"type": "FeatureCollection", "features": ['
@Field final int OVERLAY_PX = 4096

def imageData = getCurrentImageData()
if (imageData == null) {
    say("no image is open. Open one, or use Run > Run for project.")
    return
}
if (!(loadAs in ["detection", "annotation"])) {
    say("loadAs is '${loadAs}', and has to be 'detection' or 'annotation'.")
    return
}
def given = results ?: (binding.hasVariable("args") && args ? args[0] : "")
if (!given) {
    say("where are the results? Set `results` at the top of the script to the folder given to segkit's --out.")
    return
}
def names = namesOf(imageData)
def folder = names.collect { new File(given, stemOf(it)) }.find { new File(it, "run.json").isFile() }
if (folder == null) {
    def looked = names.collect { stemOf(it) }.unique().join(", ")
    say("${names[0]}: no results in ${given} (looked for a finished folder called ${looked}).")
    return
}
def facts = GsonTools.getInstance().fromJson(new File(folder, "run.json").getText("UTF-8"), Map)
if (fits(facts, folder, imageData)) {
    load(facts, folder, imageData)
    if (showProbability)
        overlay(facts, folder, imageData)
}


/** Say something in the log, as this script. */
void say(message) {
    println("segkit: ${message}")
}

/** What an image is called: by its files, which segkit names its folders after, and in QuPath and the project. */
List<String> namesOf(imageData) {
    def server = imageData.getServer()
    def found = server.getURIs().collect { (it.getPath() ?: it.toString()).tokenize("/").last() }
    found << server.getMetadata().getName()
    def entry = getProjectEntry()
    if (entry != null)
        found.addAll([entry.getImageName(), entry.getOriginalImageName()])
    return found.findAll { it }.unique()
}

/** The name without the suffix, and without .ome before it, as segkit names its folders. */
String stemOf(String name) {
    int dot = name.lastIndexOf(".")
    def stem = dot > 0 ? name.substring(0, dot) : name
    return stem.endsWith(".ome") ? stem.substring(0, stem.length() - 4) : stem
}

/** Whether a result is finished and of this image; says why not, and where the scales differ. */
boolean fits(facts, folder, imageData) {
    if (facts.complete != true) {
        say("${folder}: is not finished. Give segkit the same command again; it goes on.")
        return false
    }
    def server = imageData.getServer()
    if (facts.slide.width != server.getWidth() || facts.slide.height != server.getHeight()) {
        say("${folder}: is of an image of ${facts.slide.width as int} x ${facts.slide.height as int} pixels, and this " +
            "one has ${server.getWidth()} x ${server.getHeight()}. Nothing is loaded: it may be another image, or " +
            "another series or rotation of it.")
        return false
    }
    def calibration = server.getPixelCalibration()
    def expected = facts.slide.mpp
    if (expected != null && !calibration.hasPixelSizeMicrons())
        say("this image has no pixel size in QuPath. segkit read ${expected} um: setPixelSizeMicrons(${expected}, ${expected})")
    else if (expected != null && Math.abs(calibration.getAveragedPixelSizeMicrons() / expected - 1) > 0.01)
        say("pixels are ${calibration.getAveragedPixelSizeMicrons()} um in QuPath and ${expected} um in segkit. Places " +
            "are right (they are in pixels), but areas and lengths of the two will differ.")
    return true
}

/** Load the objects of a folder. */
void load(facts, folder, imageData) {
    def hierarchy = imageData.getHierarchy()
    def sources = ["objects.geojson", "detections.geojson"].collect { new File(folder, it) }.findAll { it.isFile() }
    if (!sources) {
        say("${folder}: has no objects.geojson and no detections.geojson.")
        return
    }
    if (replaceEarlier) {
        def models = facts.models ?: [facts.model]
        def classes = models[0].classes as Set
        def earlier = hierarchy.getAllObjects(false).findAll {
            it.getPathClass() != null && it.getPathClass().toString() in classes && it.getMetadata().get(MARK) != null
        }
        hierarchy.removeObjects(earlier, true)
        if (earlier)
            say("took away ${earlier.size()} objects that were loaded before.")
    }
    def counts = new TreeMap()
    def classes = new LinkedHashMap()
    sources.each { source ->
        inBatches(source) { String features ->
            def objects = PathIO.readObjectsFromGeoJSON(new ByteArrayInputStream(features.getBytes("UTF-8")))
            if (loadAs == "annotation")
                objects = objects.collect { annotationOf(it) }
            objects.each {
                it.getMetadata().put(MARK, folder.getName())
                def name = "${it.getPathClass()}".toString()
                counts[name] = (counts[name] ?: 0) + 1
                if (it.getPathClass() != null)
                    classes.putIfAbsent(name, it.getPathClass())
            }
            hierarchy.addObjects(objects)
        }
    }
    if (setColours)
        sources.each { colour(it, classes) }
    offer(classes.values())
    fireHierarchyUpdate(hierarchy)
    def total = counts.values().sum() ?: 0
    def each = counts.collect { name, count -> "${name} ${count}" }.join(", ")
    say("${imageData.getServer().getMetadata().getName()}: loaded ${total} ${loadAs}s${each ? ' (' + each + ')' : ''} " +
        "from ${folder}.")
}

/**
 * Give the features of a file to `take`, as text of GeoJSON, so many at once that their memory stays bounded.
 *
 * segkit writes a feature a line. A file in another form is given as a whole.
 */
void inBatches(File source, Closure take) {
    source.withReader("UTF-8") { reader ->
        if (reader.readLine() != FIRST_LINE) {
            take(source.getText("UTF-8"))
            return
        }
        def lines = []
        def flush = {
            if (lines)
                take(FIRST_LINE + lines.join(",") + "]}")
            lines.clear()
        }
        for (String line = reader.readLine(); line != null && line != "]}"; line = reader.readLine()) {
            if (line)
                lines << (line.endsWith(",") ? line.substring(0, line.length() - 1) : line)
            if (lines.size() >= batchSize)
                flush()
        }
        flush()
    }
}

/** The same as an annotation, locked, so that it is not moved by accident. */
def annotationOf(detection) {
    def annotation = PathObjects.createAnnotationObject(
        detection.getROI(), detection.getPathClass(), detection.getMeasurementList())
    annotation.setLocked(true)
    return annotation
}

/** Give classes the colours of the first feature of each: QuPath keeps the colour of a class that it knows. */
void colour(File source, Map classes) {
    def missing = new HashSet(classes.keySet())
    def pattern = ~/"classification":(\{"name":"(?:[^"\\]|\\.)*","color":\[[0-9]+,[0-9]+,[0-9]+\]\})/
    source.withReader("UTF-8") { reader ->
        for (String line = reader.readLine(); line != null && missing; line = reader.readLine()) {
            def found = pattern.matcher(line)
            if (!found.find())
                continue
            def classification = GsonTools.getInstance().fromJson(found.group(1), Map)
            if (missing.remove(classification.name)) {
                def (red, green, blue) = classification.color.collect { it as int }
                classes[classification.name].setColor(red, green, blue)
            }
        }
    }
}

/** Put classes into the list that QuPath's window, or the project, offers. */
void offer(Collection classes) {
    def window = getQuPath()
    if (window != null) {
        Platform.runLater {
            classes.each {
                if (!window.getAvailablePathClasses().contains(it))
                    window.getAvailablePathClasses().add(it)
            }
        }
    } else if (getProject() != null) {
        def known = getProject().getPathClasses()
        if (getProject().setPathClasses(known + classes.findAll { !known.contains(it) }))
            getProject().syncChanges()
    }
}

/** Lay the map of probabilities over the image that is shown: transparent where it is 0. */
void overlay(facts, folder, imageData) {
    def viewer = getQuPath() == null ? null : getCurrentViewer()
    if (viewer == null || viewer.getImageData() != imageData)
        return  // there is no window, or it shows another image of the project
    def file = ["probability.tif", "probability.ome.tif"].collect { new File(folder, it) }.find { it.isFile() }
    if (file == null) {
        say("${folder}: has no probability.tif to be shown. Predict with --probability.")
        return
    }
    def server = ImageServers.buildServer(file.toURI())
    def raster
    try {
        double downsample = Math.max(1, Math.max(server.getWidth(), server.getHeight()) / (double) OVERLAY_PX)
        raster = server.readRegion(RegionRequest.createInstance(server, downsample)).getRaster()
    } finally {
        server.close()
    }
    def (red, green, blue, alpha) = (0..3).collect { new byte[256] }
    256.times {
        red[it] = (byte) 213
        green[it] = (byte) 94
        blue[it] = (byte) 0
        alpha[it] = (byte) (it * 0.75)
    }
    def image = new BufferedImage(new IndexColorModel(8, 256, red, green, blue, alpha), raster, false, null)
    def read = facts.plan.region
    double scale = facts.plan.downsample
    def place = ImageRegion.createInstance(
        *[read.x, read.y, read.width, read.height].collect { Math.round(it * scale) as int }, 0, 0)
    Platform.runLater {
        viewer.getOverlayOptions().setShowPixelClassification(true)
        viewer.setCustomPixelLayerOverlay(
            new BufferedImageOverlay(viewer, viewer.getOverlayOptions(), [(place): image]))
        viewer.repaint()
    }
}
